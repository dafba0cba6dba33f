"""Quality of a decoder on pairs."""
