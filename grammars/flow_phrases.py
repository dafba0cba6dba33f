"""How people say it: the phrasings of each function of flow, its outputs, its conditions, and the frames around them.

In a phrase, ``{name}`` is a parameter (``{name!}``: not for a reference), ``[...]`` is left out when the parameter in
it is not given, ``<a|b>`` is a choice; a semicolon parts the phrases, and ``!`` before one says that it does not start
with a verb.
No phrase of one function may be read as another function of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _blocks(text: str) -> Mapping[str, tuple[str, ...]]:
    lines = (line.split(": ", 1) for line in text.strip().replace("\n  ", " ").split("\n"))
    return MappingProxyType({name: tuple(body.split("; ")) for name, body in lines})


# After "when": a clause.
CLAUSES = _blocks("""
mail.received: <i get|i receive> <a|a new> <mail|email>[ from {from}]; <a mail|a new email|an email> <arrives|comes
  in>[ from {from}]
chat.posted: <someone|anybody> <posts|writes> in {channel}; a <message|new post> <appears|lands> in {channel}
chat.mention: <someone|anybody> mentions me[ in {channel}]; i am <mentioned|tagged>[ in {channel}]; my name comes up[
  in {channel}]
calendar.starts: <a meeting|my meeting|an event> <starts|begins>; <a calendar event|an appointment> <starts|begins>
calendar.added: <a meeting|an event|an appointment> is <added|booked|scheduled>[ on {day}]; someone <adds|books> a
  meeting[ on {day}]
sheets.added: a <row|new row|line> is added to {sheet}; someone adds a <row|line> to {sheet}; {sheet} gets a <row|new
  row|line>
crm.lead: <a|a new> lead <arrives|comes in|signs up>; <we|i> get a <lead|new lead>; there is a new lead
crm.won: <a|some> deal is <won|signed>; we <win|sign> a deal; <a|some> deal closes
tickets.opened: a <ticket|new ticket> is <opened|filed>[ in {project}]; someone <opens|files> a ticket[ in {project}]
tickets.closed: <a|any> ticket is <closed|resolved|solved>; someone <closes|resolves|solves> a ticket
git.push: <someone|anybody> pushes to {repo}; {repo} gets <a push|new commits|a commit>; <commits|code> <land|arrive>
  in {repo}
git.merge: <someone|anybody> merges into {repo}; a <pull request|branch> is merged <in|into> {repo}; {repo} gets a
  merge
git.failed: <the|a> build of {repo} <fails|breaks>; the {repo} build <fails|breaks|goes red>; {repo} fails to build
weather.rain: it <rains|starts raining|starts to rain> in {city}; <rain|a shower> <starts|begins> in {city}; there is
  rain in {city}
payments.received: <a payment|money> <arrives|comes in>; <i get|we get|we receive> <a payment|paid>; someone pays
  <us|me>
payments.failed: <a|any> payment <fails|bounces|is declined>; <someone's|a> card is declined
files.added: <a|a new> file <lands|appears|is added|is saved> in {folder}; someone <adds|uploads> a file to {folder}
sms.received: <i get|i receive> <a text|an sms|a new sms>[ from {from}]; <a text|an sms> <arrives|comes in>[ from
  {from}]
phone.missed: i miss a <call|phone call>; <a|some> call <goes unanswered|is missed>; there is a missed call
sensor.motion: <something|someone> moves in the {room}; <motion|movement> is <seen|detected> in the {room}; the {room}
  sensor sees motion
sensor.door: the {room} door <opens|is opened>; <someone|anybody> opens the {room} door; the door of the {room}
  <opens|is opened>
tasks.done: <a|any> task on {list} is <done|finished|ticked off>; i <finish|complete> a task on {list}; a {list} task
  is <done|finished>
""")

# After "on" or before an arrow: a noun.
NOUNS = _blocks("""
mail.received: <new|incoming> <mail|email>[ from {from}]; <mail|email>[ from {from}]
chat.posted: <new|any> <message|post> in {channel}; post in {channel}
chat.mention: <new|any> mention[ in {channel}]; mention of me[ in {channel}]
calendar.starts: <meeting|event|appointment> start; start of <a meeting|an event|an appointment>
calendar.added: new <meeting|event|appointment>[ on {day}]; <meeting|event> added[ on {day}]
sheets.added: new <row|line> in {sheet}; <row|line> added to {sheet}
crm.lead: <new|incoming|fresh> lead
crm.won: <won|signed|closed> deal; deal won
tickets.opened: <new|incoming|opened> ticket[ in {project}]
tickets.closed: <closed|resolved|solved> ticket
git.push: <new|any> push to {repo}; new commit in {repo}; <code|commits> in {repo}
git.merge: <new|any> merge in {repo}; merged branch in {repo}
git.failed: <failed|broken|red> build of {repo}; <failed|broken|red> {repo} build
weather.rain: <rain|showers|rainfall> in {city}; start of rain in {city}
payments.received: <new|incoming|received> payment
payments.failed: <failed|declined|bounced> payment
files.added: new <file|upload> in {folder}; file added to {folder}
sms.received: <new|incoming> <text|sms>[ from {from}]
phone.missed: <missed|unanswered> <call|phone call>
sensor.motion: <motion|movement> in the {room}; {room} <motion|movement>
sensor.door: {room} door <opening|open>; opening of the {room} door
tasks.done: <finished|completed|done> task on {list}; task done on {list}
""")

# Stand alone: when a clock says so.
SCHEDULES = _blocks("""
timer.daily: <every day|each day|daily|every single day|once a day> at {at}; at {at} <every day|each day|daily>
timer.weekly: <every|each> {day} at {at}; at {at} <every|each> {day}; <every week|weekly|once a week> on {day} at {at}
timer.every: every {count} {unit}; <once|one time> every {count} {unit}; each {count} {unit};
  with an interval of {count} {unit}; at intervals of {count} {unit}
""")

# After "what is" or "get": a noun.
QUERIES = _blocks("""
mail.latest: the <latest|last|newest|most recent> <mail|email>[ from {from}]; {from}'s <latest|last> <mail|email>; my
  <latest|newest> <mail|email>[ from {from}]
calendar.next: my next <meeting|appointment|event>; the next <meeting|event> <i have|on my calendar>; my upcoming
  <meeting|event>
crm.contact: the <contact|contact card|crm entry|crm record> <of|for> {name}; {name}'s <contact|contact card|crm
  entry|crm record>
tickets.count: the <ticket count|number of tickets>[ in {project}]; the {project} ticket count; how many tickets
  {project} has; how many tickets there are[ in {project}]
git.build: the <build|build status|last build> of {repo}; the {repo} <build|build status>; {repo}'s <last build|build
  status>
weather.now: the <weather|current weather|weather right now> in {city}; the {city} weather; {city}'s <weather|current
  weather>
weather.forecast: the <forecast|weather forecast> for {city} on {day}; the {day} <forecast|weather> for {city}; the
  {city} <forecast|weather> on {day}; {day}'s weather in {city}
payments.balance: <my|the|our|the account> balance; the balance of <my|the|our> account
files.find: the <details|file info|entry> <of|for> {file}; {file}'s <details|file info|entry>; where {file} is
sensor.read: the <climate|air|sensor> <in|of> the {room}; the {room} <climate|sensor|air>; the reading of the {room}
  sensor
music.current: the <current|playing> <song|track>; the <song|track> <that is on|playing now>; what is playing; the
  music right now
""")

# Imperatives.
ACTIONS = _blocks("""
mail.send: <mail|email> {to} {text}; <send|write> {to} <a mail|an email> saying {text!}; send {to} <a mail|an email>
  with {text}; <mail|email> {text} to {to}
mail.forward: forward <it|that|the mail|this> to {to}; pass <it|that|this> on to {to}; send <it|that|this> on to {to}
chat.post: <post|write|share|drop> {text} <in|to|into> {channel}; <post|write> {text} <in|on> the {channel} channel;
  <post|say> in {channel} {text!}
chat.invite: <invite|bring> {user} <to|into> {channel}; <get|pull> {user} into {channel}; let {user} join {channel}
calendar.add: <schedule|book|plan> {title} <on|for> {day}[ at {at}]; <add|put> {title} <to|on> my calendar <on|for>
  {day}[ at {at}]
sheets.append: <add|append|log|write> {row} to <the|my> {sheet} sheet; <add|append> a row to {sheet} with {row};
  <log|record> {row} in {sheet}
crm.add: <add|save> {name}[ of {company}] to <the crm|my contacts>; create a contact for {name}[ of {company}]; !new
  contact {name}[ of {company}]
crm.move: <move|push|advance> the {company} deal to {stage}; <set|mark> {company} <to|as> {stage}; <put|move>
  {company} <in|into> stage {stage}
tickets.create: <open|create|file|raise> a ticket {title!}[ with {priority} priority]; <file|open|create> a[
  {priority} priority] ticket <called|titled> {title}
tickets.assign: <assign|give|hand> ticket {ticket} to {to}; make {to} the owner of ticket {ticket}; <put|set> {to} on
  ticket {ticket}
tickets.close: <close|resolve|finish|shut> ticket {ticket}; mark ticket {ticket} as <closed|resolved|done>
git.issue: <open|create|file|report> an issue {title!} in {repo}; <open|file|create> a {repo} issue <called|titled>
  {title}; <open|create> an issue in {repo} <called|titled> {title}
git.deploy: <deploy|ship|release|roll out> {repo} to {target}; push {repo} <on|onto> {target}; start a {target} deploy
  of {repo}
payments.invoice: <invoice|bill|charge> {to} {amount} {currency}; <send|write> {to} <an invoice|a bill> <over|for>
  {amount} {currency}
files.move: <move|put|shift> {file} <to|into> <the|my> {folder} folder; <file|archive|store> {file} under {folder}
files.delete: <delete|erase|trash|bin> {file}; <remove|delete> the file {file}; get rid of {file}; throw {file} away
sms.send: <text|sms> {to} {text}; send {to} <a text|an sms> saying {text!}; send {to} <a text|an sms> with {text};
  <text|sms> {text} to {to}
phone.call: <call|phone|ring|dial> {to}; give {to} a <call|ring>; <get|put> {to} on the phone; ring up {to}
lights.on: <turn|switch> on the {room} <lights|light>; <turn|switch> the {room} <lights|light> on; light up the
  {room}; !lights on in the {room}
lights.off: <turn|switch> off the {room} <lights|light>; <turn|switch> the {room} <lights|light> off; !lights off in
  the {room}; make the {room} dark
lights.color: <make|turn|set> the {room} <lights|light> {color}; <change|switch> the {room} <lights|light> to {color};
  !{color} light in the {room}
device.on: <turn|switch|power> on the {device}; <turn|switch|power> the {device} on; <start|run|fire up> the {device}
device.off: <turn|switch|power> off the {device}; <turn|switch|power> the {device} off; <stop|shut down|kill> the
  {device}
music.play: play {playlist}; <put|throw> on {playlist}; <start|play> the <playlist|album> {playlist}; play some
  {playlist}
music.pause: <pause|stop|halt> the <music|song|track>; <turn|switch> the music off; !no more music; silence the
  <music|speakers>
tasks.add: <add|put> {task} <to|on> <my|the> {list} list; <add|put> {task} on {list}; !<new|add a> task <on|for>
  {list} {task}
""")

# Whole sentences: {e} is the event or query, {c} the condition, {a} the steps, {q} a question.
FRAMES = _blocks("""
when: when {e}, {a}; whenever {e}, {a}; every time {e}, {a}; if {e}, {a}; as soon as {e}, {a}; once {e}, {a}
after: {a} when {e}; {a} whenever {e}; {a} every time {e}; {a} if {e}; {a} as soon as {e}
on: on {e}, {a}; for every {e}, {a}; for each {e}, {a}; {e} -> {a}; {e}: {a}; {a} on every {e}
when if: when {e} and {c}, {a}; if {e} and {c}, {a}; whenever {e}, if {c}, {a}; when {e}, {a} if {c}; once {e} and
  {c}, {a}
after if: {a} when {e} and {c}; {a} if {e} and {c}; {a} whenever {e}, but only if {c}; {a} when {e} if {c}
on if: {e} if {c} -> {a}; {e}, {c} -> {a}; on {e}, if {c}, {a}; for every {e} where {c}, {a}; {e}: if {c}, {a}
clock: {e}, {a}; {e} {a}; {a} {e}; {e} -> {a}; {e}: {a}; {a}, {e}
look: get {e} and {a}; look up {e} and {a}; check {e}, then {a}; fetch {e}, {a}; {e} -> {a}; read {e} and {a}
look if: check {e} and if {c}, {a}; get {e}, if {c}, {a}; look up {e} and {a} if {c}; look at {e}: if {c}, {a}; {e},
  if {c} -> {a}; check {e} and {a} if {c}
polite: please {a}; pls {a}; can you {a}; could you {a}; i want you to {a}; hey, {a}; {a} please; {a} now
ask: what is {q}; show me {q}; get {q}; {q}?; tell me {q}; check {q}; i need {q}; look up {q}; {q}; can you get {q}
ask how: tell me {q}; show me {q}; {q}?; check {q}; find out {q}; i need to know {q}; can you tell me {q}; {q}
""")

# What an output is called, the name in the grammar first.
OUTPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sender": ("sender",),
        "subject": ("subject", "subject line"),
        "body": ("body", "mail body"),
        "user": ("user",),
        "message": ("message",),
        "link": ("link", "url"),
        "title": ("title",),
        "host": ("host", "organizer"),
        "place": ("place", "location"),
        "hours": ("number of hours", "hour count"),
        "row": ("row",),
        "author": ("author",),
        "rows": ("row count", "number of rows"),
        "lead": ("lead",),
        "company": ("company",),
        "value": ("value", "worth"),
        "address": ("address",),
        "priority": ("priority",),
        "agent": ("agent",),
        "total": ("total",),
        "branch": ("branch",),
        "minutes": ("number of minutes", "build time"),
        "summary": ("summary",),
        "temperature": ("temperature", "temp"),
        "wind": ("wind", "wind speed"),
        "high": ("high", "highest temperature"),
        "low": ("low", "lowest temperature"),
        "amount": ("amount", "sum"),
        "payer": ("payer",),
        "currency": ("currency",),
        "reason": ("reason",),
        "balance": ("balance",),
        "file": ("file",),
        "owner": ("owner",),
        "size": ("size", "file size"),
        "text": ("text",),
        "caller": ("caller",),
        "humidity": ("humidity",),
        "song": ("song", "song title"),
        "artist": ("artist", "singer"),
        "task": ("task",),
        "open": ("open count", "number of open tasks"),
    }
)
FLAGS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "attachment": (
            ("it has an attachment", "there is a file attached"),
            ("it has no attachment", "nothing is attached"),
        ),
        "passed": (("it passed", "it is green"), ("it did not pass", "it is not green")),
        "raining": (("it is raining", "there is rain"), ("it is not raining", "there is no rain")),
        "shared": (("it is shared", "others can see it"), ("it is not shared", "nobody else can see it")),
    }
)
COMPARISONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ">": ("is over", "is above", "is more than", "is greater than", "exceeds", ">"),
        "<": ("is under", "is below", "is less than", "is lower than", "<"),
        ">=": ("is at least", "is no less than", ">="),
        "<=": ("is at most", "is no more than", "<="),
    }
)
CONTAINS = ("contains", "mentions", "has", "includes")
EQUALS = ("is", "is", "=")
