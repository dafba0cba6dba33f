"""What the author of a grammar asks: checks, random programs, diagrams, fuzzing, why a text is refused."""
