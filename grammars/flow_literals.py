"""What people fill in: seeded literals for each type of parameter of flow, copied into the program as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import MappingProxyType

from edgedsl.grammars.flow_signatures import ENUMERATIONS


def _pools(text: str, separator: str = " ") -> Mapping[str, tuple[str, ...]]:
    lines = (line.split(": ", 1) for line in text.strip().replace("\n  ", " ").split("\n"))
    return MappingProxyType({name: tuple(words.split(separator)) for name, words in lines})


_WORDS = _pools("""
person: Ana Bob Carla David Emma Frank Grace Henry Ivan Julia Kevin Laura Martin Nina Oscar Paul Rachel Sam Tina
  Victor Wendy Yusuf Zoe Alice Ben Chris Diana Eric Fiona George Hannah Ian Jane Karl Linda Mark Nora Oliver Peter
  Rosa Simon Tom Ursula Vera Walter Alan Bella Clara Daniel Eva Felix Gina Hugo Irene James Kate Leo Maria Noah Olga
  Pablo Ruth Steve Tara Viktor Will Amir Chen Fatima Ravi Priya Kenji Mei Omar Leila Sofia Lucas Mateo Elena Marco
  Luca Anna Erik Lars Ingrid Sven Pierre Marie Claire Jean Lucy Jack Harry Amy Ryan Adam Sarah Lisa Mike John Mary
  Anton Boris Dora Edgar Flora Greta Hans Iris Jonas Lena Max Otto Petra Ralf Silke Theo
channel: ops sales support general random dev design marketing finance legal alerts incidents releases backend
  frontend mobile data research security infra platform product feedback launch press hiring office travel lunch music
  books games news deploys reviews testing billing partners customers onboarding training events quality growth
  standup help
sheet: Leads Budget Expenses Orders Stock Hours Invoices Clients Contacts Inventory Payroll Sales Visitors Feedback
  Bugs Costs Revenue Shipping Returns Suppliers Guests Members Travel Projects Ideas Signups Donations Payments
  Forecast Quotes Incidents Books Recipes Plants Tools Parts Shifts Tests Scores Votes
project: apollo mercury atlas orion phoenix nova titan pegasus falcon delta omega sierra gemini voyager juno helios
  vega zephyr aurora comet eagle raven panda tiger lotus maple cedar willow amber coral
repo: api web backend frontend core server client parser engine mobile docs website payments search auth billing
  gateway scheduler worker dashboard compiler toolkit storage cache router monitor proxy crawler editor player
folder: Reports Contracts Invoices Photos Archive Drafts Inbox Backups Designs Templates Receipts Scans Exports
  Uploads Legal Taxes Music Videos Slides Notes Letters Manuals Plans Maps Minutes
city: Oslo Paris London Berlin Madrid Rome Vienna Lisbon Dublin Athens Prague Warsaw Zurich Geneva Milan Naples Venice
  Munich Hamburg Cologne Lyon Nice Porto Seville Valencia Boston Chicago Denver Seattle Austin Miami Dallas Toronto
  Montreal Vancouver Sydney Melbourne Tokyo Osaka Kyoto Seoul Beijing Shanghai Delhi Mumbai Cairo Nairobi Lagos Lima
  Bogota Santiago Havana Istanbul Ankara Moscow Kiev Budapest Stockholm Helsinki Copenhagen Amsterdam Brussels
  Edinburgh Glasgow Manchester Bristol
company: Acme Globex Initech Umbrella Stark Wayne Cyber Vertex Summit Pioneer Horizon Cascade Liberty Atlas Nimbus
  Orbit Quantum Beacon Harbor Anchor Falcon Granite Sterling Phoenix Titan Delta Zenith Apex Nova Fusion
list: groceries errands work home chores shopping garden travel party reading holiday school family weekend repairs
  kitchen garage gifts birthday launch
playlist: jazz focus blues rock classical ambient techno reggae salsa opera soul funk folk disco metal chill morning
  dinner workout sleep study rain party piano guitar
tag: stable beta nightly latest candidate hotfix legacy archived release milestone
contains: invoice urgent refund contract budget offer meeting report error password order delivery holiday security
  outage payment question review deadline launch demo quote salary visa hotel flight license newsletter strike storm
  backup server database login feature music workshop training audit renewal discount
file_stem: report budget notes invoice plan summary draft logo photo agenda contract minutes slides data list letter
  map scan table form
file_extension: pdf txt csv png docx zip
number: 2 3 4 5 6 7 8 9 10 12 14 15 18 20 24 25 30 35 36 40 45 48 50 60 72 75 80 90
thing: build server lunch meeting delivery order report train package demo release client printer contract budget
  database website coffee dinner keynote interview workshop backup invoice shipment elevator parking heating keys
kind: quarterly weekly annual team budget design sales project product board client safety code staff launch planning
  hiring security travel training monthly final urgent technical internal
event: review meeting lunch sync report workshop update demo call session audit checklist plan interview party
  training talk proposal briefing survey
""")
_PHRASES = _pools(
    """
state: is ready; is late; is done; is broken; is here; is cancelled; is on hold; needs review; has moved; starts soon;
  looks good; is back online; was approved; is waiting; is fixed; arrived; is missing; is tomorrow; failed again;
  needs help
message: on my way; call me back; see you soon; happy birthday; running late; thanks a lot; good morning; well done;
  see you tonight; please check; nice work; back in five minutes; out for lunch; need your help; all clear; stay home;
  great job; no worries; welcome aboard; talk to you later; dinner at eight; bring the keys; good luck; come to my
  office; take a break
task: buy milk; call the bank; water the plants; fix the door; pay the rent; book a flight; order paper; clean the
  desk; send the forms; wash the car; buy bread; renew the lease; paint the fence; return the books; check the tires;
  feed the cat; change the filter; pick up the cake; print the tickets; charge the drill; sweep the floor; update the
  slides; pack the bags; find a gift
""",
    "; ",
)
_RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "amount": (15, 9500),
        "count": (2, 250),
        "degrees": (-9, 36),
        "hours": (1, 30),
        "level": (0, 100),
        "minutes": (2, 90),
        "percent": (10, 95),
        "size": (1, 900),
        "ticket": (100, 9999),
        "wind": (5, 90),
    }
)


def literal(type_name: str, parameter: str, rng: Random) -> str:
    """A literal of this type. Free text depends on the parameter too: a title is not a message."""
    if type_name in ENUMERATIONS:
        return rng.choice(ENUMERATIONS[type_name])
    if type_name == "number":
        return rng.choice(_WORDS["number"])
    if type_name in _RANGES:
        return _number(type_name, rng)
    if type_name == "text":
        return _text(parameter, rng)
    if type_name == "time":
        return _time(rng)
    if type_name == "file":
        return f"{rng.choice(_WORDS['file_stem'])}.{rng.choice(_WORDS['file_extension'])}"
    if type_name == "tag" and rng.random() < 0.5:
        return f"v{rng.randint(1, 9)}.{rng.randint(0, 9)}"
    word = rng.choice(_WORDS[type_name])
    return word.lower() if rng.random() < 0.25 else word


def _number(type_name: str, rng: Random) -> str:
    low, high = _RANGES[type_name]
    number = rng.randint(low, high)
    return str(number - number % 10) if number > 100 and type_name != "ticket" and rng.random() < 0.7 else str(number)


def _time(rng: Random) -> str:
    if rng.random() < 0.5:
        return f"{rng.randint(1, 12)}{rng.choice(('am', 'pm'))}"
    return f"{rng.randint(6, 22)}:{rng.choice(('00', '15', '30', '45'))}"


def _text(parameter: str, rng: Random) -> str:
    if parameter == "task":
        return rng.choice(_PHRASES["task"])
    if parameter == "title":
        return f"{rng.choice(_WORDS['kind'])} {rng.choice(_WORDS['event'])}"
    if rng.random() < 0.4:
        return rng.choice(_PHRASES["message"])
    return f"{rng.choice(_WORDS['thing'])} {rng.choice(_PHRASES['state'])}"
