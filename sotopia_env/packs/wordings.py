"""Surface wordings of the outcome families.

Every family has `train` wordings, which the validation split shares, and `test` wordings, which
appear nowhere else. A wording is public: it must not hint at any seat's private numbers.
"""

from __future__ import annotations

from typing import NamedTuple


class Wording(NamedTuple):
    """One way to tell a family's situation.

    Attributes:
        scenario: The public situation; `{thing}` is filled from `things`.
        goals: Private goal of every seat, by seat; the last one serves all further seats.
        relationships: Relationships that fit the situation.
        things: What it may be about; the family says what one of them is.
    """

    scenario: str
    goals: tuple[str, ...]
    relationships: tuple[str, ...]
    things: tuple[str, ...] = ("",)


_SELL = (
    "Sell for as high a price as you can get, and not at a loss.",
    "Buy for as low a price as you can get, and not at a loss.",
)
_SELL_TEST = (
    "Come away with as much over your own valuation as possible; walk away rather than lose money.",
    "Pay as little as possible compared with what it is worth to you; walk away rather than overpay.",
)
_SPLIT = ("Agree on a division that gives you as many points as possible, more than you would have without a deal.",)
_SPLIT_TEST = ("Leave with the largest share by your own count; no deal is better than one below your outside option.",)
_MEET = ("Fix one time for both of you, as good for you as possible, and not one at which you are busy.",)
_MEET_TEST = ("Get an appointment that suits you well; none at all is better than one you cannot keep.",)
_FRIEND = ("Find out which friend you both have and agree on the full name; rather no name than a wrong one.",)
_FRIEND_TEST = ("Identify the one person you two both know and settle on the name; do not settle on a guess.",)
_KEEP = (
    "Be open about everything except your secret: put your other facts on record truly, and do not let the "
    "secret be guessed.",
    "Learn the facts the other is willing to give, and find out the secret and answer it.",
)
_KEEP_TEST = (
    "Answer what you can honestly, for the record, and keep the one thing to yourself that must stay yours.",
    "Have the ordinary facts put on record and work out the one the other would rather not say.",
)
_GIVE = (
    "Win as large a gift as you can; find out what moves the other.",
    "Give only where it means something to you, and no more than it is worth to you.",
)
_GIVE_TEST = (
    "Come away with the biggest contribution you can, through the appeals that speak to this person.",
    "Contribute only as far as you are convinced, and keep what you can.",
)
_VOTE = ("Get an option chosen that is worth as much to you as possible, and nothing worse than no decision.",)
_VOTE_TEST = ("Steer the group to a decision you profit from; rather none than one below what no decision gives you.",)

WORDINGS: dict[str, dict[str, tuple[Wording, ...]]] = {
    "bargain": {
        "train": (
            Wording(
                "A second-hand {thing} is for sale at a Saturday flea market. The seller has it on the blanket; "
                "the buyer has stopped in front of it. They talk about the price.",
                _SELL,
                ("stranger", "known_by_name"),
                ("desk lamp", "record player", "rain coat", "tool box", "chess set", "typewriter"),
            ),
            Wording(
                "Through a notice on the board of their apartment house, one neighbour offers a {thing}. The other "
                "comes by in the evening to settle the price.",
                _SELL,
                ("acquaintance", "known_by_name"),
                ("bookshelf", "folding bed", "bicycle", "baby seat", "vacuum cleaner", "sewing machine"),
            ),
            Wording(
                "A student who finishes this term wants to pass on a {thing}. A first-year student would like to "
                "have it. They meet in the canteen.",
                _SELL,
                ("stranger", "acquaintance"),
                ("set of textbooks", "drawing board", "microscope", "desk chair", "guitar", "winter jacket"),
            ),
            Wording(
                "Two friends talk about a {thing} that stands unused in the garage of one of them. The other has "
                "wanted one for a while and offers to buy it.",
                _SELL,
                ("friend", "family"),
                ("canoe", "tent", "workbench", "lawn mower", "projector", "rowing machine"),
            ),
            Wording(
                "A small workshop makes {thing} to order. A café owner calls to ask for one and both sides haggle "
                "over the price of the piece.",
                _SELL,
                ("stranger", "known_by_name"),
                ("a wooden counter stool", "a painted shop sign", "a copper kettle", "a menu board", "a coat rack"),
            ),
        ),
        "test": (
            Wording(
                "At a farm gate, a grower has a {thing} left over after the season. A passing neighbour asks what it "
                "would take to load it on the trailer.",
                _SELL_TEST,
                ("acquaintance", "stranger"),
                ("water tank", "stack of fence posts", "hand plough", "cider press", "beehive"),
            ),
            Wording(
                "A museum volunteer clears out the depot. A collector has asked about a {thing}, and the two settle "
                "by the loading door whether it changes hands and for how much.",
                _SELL_TEST,
                ("known_by_name", "stranger"),
                ("ship model", "station clock", "map cabinet", "slide viewer", "brass telescope"),
            ),
            Wording(
                "Moving day: whoever leaves cannot take the {thing} along, and whoever moves in could use it. There "
                "are ten minutes before the van goes.",
                _SELL_TEST,
                ("stranger", "friend"),
                ("kitchen table", "washing machine", "piano stool", "wardrobe", "carpet"),
            ),
        ),
    },
    "divide": {
        "train": (
            Wording(
                "Two housemates move into separate flats and divide what they bought together: {thing}.",
                _SPLIT,
                ("friend", "acquaintance"),
                ("book hat ball", "lamp chair plant", "pan bowl knife"),
            ),
            Wording(
                "A box of leftovers from the street festival is to be shared between two helpers: {thing}.",
                _SPLIT,
                ("stranger", "acquaintance"),
                ("cake juice candle", "flag rope banner", "mug shirt badge"),
            ),
            Wording(
                "Two siblings go through their late grandfather's shed and decide who takes what: {thing}.",
                _SPLIT,
                ("family",),
                ("saw vise drill", "rod net lantern", "stamp coin medal"),
            ),
            Wording(
                "Two teachers share one delivery of material for their classes: {thing}.",
                _SPLIT,
                ("acquaintance", "friend"),
                ("paint brush canvas", "globe atlas poster", "drum flute bell"),
            ),
            Wording(
                "At a seed exchange, two gardeners came for the same last lots: {thing}.",
                _SPLIT,
                ("stranger", "known_by_name"),
                ("bean pea squash", "rose tulip iris", "basil mint thyme"),
            ),
        ),
        "test": (
            Wording(
                "A theatre closes and two former stagehands may carry off the last props: {thing}.",
                _SPLIT_TEST,
                ("acquaintance", "friend"),
                ("mask sword crown", "mirror trunk curtain"),
            ),
            Wording(
                "Two hikers meet at a hut where a parcel with supplies for both was left: {thing}.",
                _SPLIT_TEST,
                ("stranger",),
                ("soup bread cheese", "battery blanket torch"),
            ),
            Wording(
                "A prize for two winners of a quiz arrives in one crate, and they open it together: {thing}.",
                _SPLIT_TEST,
                ("stranger", "known_by_name"),
                ("puzzle game ticket", "pen diary stamp"),
            ),
        ),
    },
    "schedule": {
        "train": (
            Wording(
                "Two colleagues need one hour together this week to prepare {thing}.",
                _MEET,
                ("acquaintance", "friend"),
                ("a report", "a training day", "a stock check"),
            ),
            Wording(
                "A tenant and a heating engineer arrange when {thing} can be done.",
                _MEET,
                ("stranger", "known_by_name"),
                ("the boiler service", "the radiator repair", "the meter reading"),
            ),
            Wording(
                "Two parents want to find a time at which their children can practise {thing} together.",
                _MEET,
                ("acquaintance", "known_by_name"),
                ("a duet", "a sketch", "a dance"),
            ),
            Wording(
                "Two old friends try to find a time for {thing} before one of them travels.",
                _MEET,
                ("friend",),
                ("a walk", "a long lunch", "a game of cards"),
            ),
            Wording(
                "A patient on the phone and a practice assistant look for a time for {thing}.",
                _MEET,
                ("stranger",),
                ("a check-up", "a blood test", "an eye test"),
            ),
        ),
        "test": (
            Wording(
                "A radio editor and a beekeeper want to record {thing} on the hives and compare diaries.",
                _MEET_TEST,
                ("known_by_name", "stranger"),
                ("an interview", "a sound portrait"),
            ),
            Wording(
                "Two members of a rowing club share a double scull and must settle when to train for {thing}.",
                _MEET_TEST,
                ("friend", "acquaintance"),
                ("the autumn race", "the club regatta"),
            ),
            Wording(
                "A sister and a brother decide when to go together to {thing}.",
                _MEET_TEST,
                ("family",),
                ("the notary", "their aunt's", "the care home"),
            ),
        ),
    },
    "mutual_friend": {
        "train": (
            Wording(
                "At a wedding, two guests at one table are told that they have a friend in common. They compare.",
                _FRIEND,
                ("stranger", "known_by_name"),
            ),
            Wording(
                "In a sleeping car, two travellers find that somebody both know once told each about the other.",
                _FRIEND,
                ("stranger",),
            ),
            Wording(
                "A message from a network reads: 'You two know the same person.' It does not say whom. They chat.",
                _FRIEND,
                ("stranger", "known_by_name"),
            ),
            Wording(
                "Two new members of a choir suspect that the same friend sent them there. They try to find out who.",
                _FRIEND,
                ("acquaintance", "known_by_name"),
            ),
            Wording(
                "On the first day of a course, the game is to find the acquaintance that two people share.",
                _FRIEND,
                ("stranger", "acquaintance"),
            ),
        ),
        "test": (
            Wording(
                "Two people wait for the same surprise party in a dark garage and wonder through whom they are both "
                "invited, for neither knows the host well.",
                _FRIEND_TEST,
                ("stranger",),
            ),
            Wording(
                "A ski lift has stopped and the two on the bench pass the time by looking for a person they both know.",
                _FRIEND_TEST,
                ("stranger", "known_by_name"),
            ),
            Wording(
                "A letter without a sender reached two neighbours. They think a shared friend wrote it and compare "
                "whom each of them knows.",
                _FRIEND_TEST,
                ("acquaintance",),
            ),
        ),
    },
    "secret": {
        "train": (
            Wording(
                "A village paper wants a portrait of a newcomer, who has agreed to talk to its reporter.",
                _KEEP,
                ("stranger", "known_by_name"),
            ),
            Wording(
                "In a game at a birthday, one guest is questioned by another; most things may be told, one may not.",
                _KEEP,
                ("friend", "acquaintance"),
            ),
            Wording(
                "A colleague prepares a speech for a retirement and collects facts from the one who retires.",
                _KEEP,
                ("acquaintance", "friend"),
            ),
            Wording(
                "A librarian registers a new reader, who would rather not tell everything the form asks.",
                _KEEP,
                ("stranger",),
            ),
            Wording(
                "Two people on a bench have started to talk, and one of them is curious about the other's life.",
                _KEEP,
                ("stranger", "known_by_name"),
            ),
        ),
        "test": (
            Wording(
                "A game of 'who are you?' on a night train: one asks, the other decides what to say.",
                _KEEP_TEST,
                ("stranger",),
            ),
            Wording(
                "For the yearbook of a sailing club, an older member interviews a younger one on the jetty.",
                _KEEP_TEST,
                ("acquaintance", "known_by_name"),
            ),
            Wording(
                "A cousin who keeps the family chronicle calls a relative to fill the last empty page.",
                _KEEP_TEST,
                ("family",),
            ),
        ),
    },
    "donate": {
        "train": (
            Wording(
                "A volunteer at a street stall asks a passer-by for a gift to {thing}.",
                _GIVE,
                ("stranger",),
                ("the children's hospital", "the sea rescue", "the animal shelter"),
            ),
            Wording(
                "A parent collects for {thing} and rings at the door of a neighbour.",
                _GIVE,
                ("acquaintance", "known_by_name"),
                ("the school garden", "the playground", "the youth orchestra"),
            ),
            Wording(
                "On the phone, a member of an association asks a former supporter to give again to {thing}.",
                _GIVE,
                ("stranger", "known_by_name"),
                ("the river clean-up", "the night shelter", "the free clinic"),
            ),
            Wording(
                "During a coffee break, one colleague asks another for a contribution to {thing}.",
                _GIVE,
                ("acquaintance", "friend"),
                ("the flood relief", "the food bank", "the guide dog school"),
            ),
            Wording(
                "After the concert, a musician talks to a visitor about supporting {thing}.",
                _GIVE,
                ("stranger", "acquaintance"),
                ("the music school", "the repair of the organ", "the free concerts"),
            ),
        ),
        "test": (
            Wording(
                "A ranger at the end of a guided walk speaks to one of the hikers about helping {thing}.",
                _GIVE_TEST,
                ("stranger",),
                ("the lynx project", "the mountain hut", "the wetland"),
            ),
            Wording(
                "Two cousins talk over the dishes; one of them raises money for {thing}.",
                _GIVE_TEST,
                ("family",),
                ("the village library", "the well at the old school"),
            ),
            Wording(
                "In the queue of a bakery, a regular with a collecting tin turns to the next in line on behalf of "
                "{thing}.",
                _GIVE_TEST,
                ("known_by_name", "stranger"),
                ("the hospice", "the soup kitchen", "the refugee café"),
            ),
        ),
    },
    "committee": {
        "train": (
            Wording(
                "The tenants' council meets to decide what to do with the empty ground floor.",
                _VOTE,
                ("acquaintance", "known_by_name"),
                ("bike-room workshop nursery laundry", "café library gym studio"),
            ),
            Wording(
                "Friends who rented a house for a week decide on the one big trip.",
                _VOTE,
                ("friend",),
                ("glacier canyon island vineyard", "museum lighthouse cave market"),
            ),
            Wording(
                "The board of a sports club decides what this year's surplus is spent on.",
                _VOTE,
                ("acquaintance",),
                ("floodlights boats coach showers", "nets bus roof scholarships"),
            ),
            Wording(
                "A family settles which animal to take in from the shelter.",
                _VOTE,
                ("family",),
                ("hound terrier tomcat rabbit", "parrot tortoise beagle kitten"),
            ),
            Wording(
                "A jury has to agree on the winner of a design contest for the town square.",
                _VOTE,
                ("stranger", "known_by_name"),
                ("fountain grove pavilion mosaic", "arcade terrace meadow stage"),
            ),
        ),
        "test": (
            Wording(
                "The crew of a research ship votes on the last station before going home.",
                _VOTE_TEST,
                ("acquaintance", "friend"),
                ("seamount trench fjord reef", "iceberg strait delta lagoon"),
            ),
            Wording(
                "The programme group of a small cinema chooses the film for the opening night.",
                _VOTE_TEST,
                ("friend", "acquaintance"),
                ("comedy western musical documentary", "thriller romance anime silent-film"),
            ),
            Wording(
                "Heirs who hardly know each other decide what becomes of the orchard.",
                _VOTE_TEST,
                ("family", "known_by_name"),
                ("lease replant campsite cider", "sell rewild school beehives"),
            ),
        ),
    },
}
"""By family, then "train" or "test"."""

FACT_VALUES: dict[str, tuple[str, ...]] = {
    "hometown": (
        "Lisbon",
        "Bergen",
        "Krakow",
        "Izmir",
        "Accra",
        "Quito",
        "Hanoi",
        "Perth",
        "Tampere",
        "Nantes",
        "Pune",
        "Osaka",
    ),
    "instrument": (
        "cello",
        "oboe",
        "banjo",
        "harp",
        "trumpet",
        "accordion",
        "zither",
        "tuba",
        "ukulele",
        "bassoon",
        "sitar",
        "organ",
    ),
    "pet": (
        "parrot",
        "greyhound",
        "tortoise",
        "ferret",
        "rabbit",
        "gecko",
        "canary",
        "goat",
        "poodle",
        "hamster",
        "pony",
    ),
    "dish": (
        "risotto",
        "goulash",
        "ramen",
        "paella",
        "pierogi",
        "falafel",
        "lasagne",
        "curry",
        "ceviche",
        "dumplings",
        "chili",
    ),
    "sport": (
        "fencing",
        "curling",
        "rowing",
        "judo",
        "handball",
        "archery",
        "badminton",
        "skiing",
        "climbing",
        "cricket",
        "polo",
    ),
    "first job": (
        "baker",
        "postman",
        "usher",
        "florist",
        "welder",
        "waiter",
        "tutor",
        "gardener",
        "cashier",
        "mason",
        "lifeguard",
    ),
    "colour": (
        "teal",
        "crimson",
        "ochre",
        "violet",
        "ivory",
        "magenta",
        "navy",
        "olive",
        "coral",
        "indigo",
        "maroon",
    ),
    "street": (
        "Mill Lane",
        "Harbour Road",
        "Elm Walk",
        "Station Square",
        "Ropewalk",
        "Castle Hill",
        "Canal Row",
        "Bell Yard",
        "Orchard Way",
        "Quay Street",
        "Smith Court",
    ),
}
"""Public values of every fact of the secret family; no value stands under two facts."""

APPEALS: tuple[str, ...] = (
    "photo",
    "receipt",
    "story",
    "statistic",
    "thank-you letter",
    "visit",
    "matched gift",
    "named plaque",
    "urgency",
    "neighbour's example",
)
"""Appeals of the donate family."""

OCCUPATIONS: tuple[str, ...] = (
    "nurse",
    "carpenter",
    "teacher",
    "bus driver",
    "cook",
    "accountant",
    "electrician",
    "librarian",
    "farmer",
    "pharmacist",
    "tailor",
    "programmer",
    "gardener",
    "translator",
    "mechanic",
    "architect",
    "sales clerk",
    "paramedic",
    "potter",
    "geologist",
    "student",
    "retired engineer",
    "hairdresser",
    "lab assistant",
)

FIRST_NAMES: tuple[str, ...] = (
    "Ada",
    "Bram",
    "Chidi",
    "Dalia",
    "Emre",
    "Farah",
    "Goran",
    "Hana",
    "Idris",
    "Joana",
    "Kofi",
    "Leila",
    "Marek",
    "Noor",
    "Oskar",
    "Priya",
    "Quentin",
    "Rosa",
    "Samir",
    "Tove",
    "Umar",
    "Vera",
    "Wanja",
    "Ximena",
    "Yuto",
    "Zofia",
    "Anouk",
    "Bilal",
    "Celia",
    "Dario",
    "Esther",
    "Finn",
    "Greta",
    "Hugo",
    "Ines",
    "Jomo",
    "Katya",
    "Lars",
    "Mina",
    "Nadia",
    "Omar",
    "Pilar",
    "Rafael",
    "Sanna",
    "Tariq",
    "Uma",
    "Viktor",
    "Wren",
    "Yara",
    "Zane",
    "Aiko",
    "Boris",
    "Carmen",
    "Daniel",
    "Eleni",
    "Felix",
    "Gita",
    "Henrik",
    "Iris",
    "Jonas",
)
"""First names; every third one belongs to one split, so that validation and test have people of their own."""

LAST_NAMES: tuple[str, ...] = (
    "Abara",
    "Bakker",
    "Costa",
    "Demir",
    "Eriksen",
    "Fontaine",
    "Grant",
    "Haddad",
    "Ivanov",
    "Jansen",
    "Kaya",
    "Lindqvist",
    "Moreau",
    "Novak",
    "Okafor",
    "Petrov",
    "Quispe",
    "Rossi",
    "Sato",
    "Tanaka",
    "Usman",
    "Varga",
    "Weber",
    "Xu",
    "Yilmaz",
    "Zeller",
    "Amari",
    "Brandt",
    "Castillo",
    "Duarte",
    "Engel",
    "Fischer",
    "Gomez",
    "Horvat",
    "Ibsen",
    "Jovic",
    "Klein",
    "Lopez",
    "Mbeki",
    "Nguyen",
    "Olsen",
    "Pereira",
    "Reyes",
    "Silva",
    "Torres",
    "Ueda",
    "Vidal",
    "Wong",
    "Yoder",
    "Zhang",
)

TRAITS: tuple[str, ...] = (
    "sings in a choir",
    "works at the harbour",
    "studies law",
    "keeps bees",
    "plays chess",
    "bakes bread",
    "drives a tram",
    "paints signs",
    "repairs radios",
    "teaches judo",
    "runs a kiosk",
    "collects maps",
    "writes poems",
    "breeds horses",
    "climbs on Sundays",
    "works nights at the bakery",
)
