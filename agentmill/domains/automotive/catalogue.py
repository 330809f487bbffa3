"""What the dealership's world is made of: makes and models with their bodies, fuels and prices, colours, names.

Pure data and the composer of open-ended names. Names come from two disjoint pools, one for worlds that are trained
on and one for held-out worlds, and about half of them are composed from syllables, so that no list can be learnt
by heart.
"""

import random
from typing import NamedTuple


class Model(NamedTuple):
    """One model line: its name, body, the fuels it comes with and its price when new in dollars."""

    name: str
    body: str
    fuels: tuple[str, ...]
    price: int


BODIES = ("suv", "sedan", "hatchback", "wagon", "coupe", "convertible", "pickup", "van")
FUELS = ("petrol", "diesel", "hybrid", "electric")
CONDITIONS = ("excellent", "good", "fair", "poor")
SERVICES = ("oil change", "inspection", "brakes", "tyres", "repair")
PLACES = ("airport", "station", "centre", "motorway", "harbour")
TERMS = (24, 36, 48, 60, 72)
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
COLOURS = ("black", "white", "silver", "grey", "blue", "red", "green", "orange", "brown", "beige")

_P, _D, _H, _E = "petrol", "diesel", "hybrid", "electric"
CATALOGUE: dict[str, tuple[Model, ...]] = {
    "Toyota": (
        Model("RAV4", "suv", (_P, _H), 33000),
        Model("Corolla", "sedan", (_P, _H), 25000),
        Model("Yaris", "hatchback", (_P, _H), 21000),
        Model("Camry", "sedan", (_P, _H), 30000),
        Model("Hilux", "pickup", (_D,), 38000),
        Model("Supra", "coupe", (_P,), 56000),
    ),
    "Honda": (
        Model("Civic", "hatchback", (_P, _H), 27000),
        Model("Accord", "sedan", (_P, _H), 31000),
        Model("CR-V", "suv", (_P, _H), 34000),
        Model("Odyssey", "van", (_P,), 41000),
        Model("Ridgeline", "pickup", (_P,), 42000),
    ),
    "Ford": (
        Model("Focus", "hatchback", (_P, _D), 25000),
        Model("Kuga", "suv", (_P, _D, _H), 34000),
        Model("Mustang", "coupe", (_P,), 45000),
        Model("Ranger", "pickup", (_D,), 40000),
        Model("Transit", "van", (_D, _E), 43000),
        Model("Mondeo", "wagon", (_P, _D, _H), 31000),
    ),
    "Volkswagen": (
        Model("Golf", "hatchback", (_P, _D, _H), 29000),
        Model("Passat", "wagon", (_P, _D), 36000),
        Model("Tiguan", "suv", (_P, _D, _H), 37000),
        Model("ID.3", "hatchback", (_E,), 39000),
        Model("Caddy", "van", (_P, _D), 32000),
    ),
    "BMW": (
        Model("320i", "sedan", (_P,), 46000),
        Model("X3", "suv", (_P, _D, _H), 56000),
        Model("Z4", "convertible", (_P,), 58000),
        Model("i4", "sedan", (_E,), 60000),
    ),
    "Audi": (
        Model("A4", "sedan", (_P, _D), 44000),
        Model("Q5", "suv", (_P, _D, _H), 52000),
        Model("TT", "coupe", (_P,), 53000),
        Model("A6", "wagon", (_P, _D), 57000),
    ),
    "Hyundai": (
        Model("Tucson", "suv", (_P, _H), 32000),
        Model("Elantra", "sedan", (_P, _H), 24000),
        Model("Ioniq", "hatchback", (_H, _E), 33000),
        Model("Staria", "van", (_D,), 42000),
    ),
    "Kia": (
        Model("Sportage", "suv", (_P, _H), 31000),
        Model("Ceed", "wagon", (_P,), 27000),
        Model("Picanto", "hatchback", (_P,), 17000),
        Model("EV6", "suv", (_E,), 49000),
    ),
    "Mazda": (
        Model("CX-5", "suv", (_P, _D), 32000),
        Model("MX-5", "convertible", (_P,), 34000),
        Model("Axela", "hatchback", (_P,), 25000),
    ),
    "Nissan": (
        Model("Qashqai", "suv", (_P, _H), 32000),
        Model("Leaf", "hatchback", (_E,), 33000),
        Model("Altima", "sedan", (_P,), 28000),
        Model("Navara", "pickup", (_D,), 37000),
    ),
    "Volvo": (
        Model("XC60", "suv", (_P, _D, _H), 51000),
        Model("V60", "wagon", (_P, _D, _H), 47000),
        Model("S90", "sedan", (_P, _H), 58000),
    ),
    "Skoda": (
        Model("Octavia", "wagon", (_P, _D), 29000),
        Model("Fabia", "hatchback", (_P,), 21000),
        Model("Kodiaq", "suv", (_P, _D), 40000),
        Model("Enyaq", "suv", (_E,), 48000),
    ),
    "Renault": (
        Model("Clio", "hatchback", (_P, _H), 20000),
        Model("Megane", "wagon", (_P, _D), 27000),
        Model("Zoe", "hatchback", (_E,), 31000),
        Model("Trafic", "van", (_D,), 38000),
    ),
    "Subaru": (
        Model("Outback", "wagon", (_P,), 35000),
        Model("Forester", "suv", (_P, _H), 34000),
        Model("BRZ", "coupe", (_P,), 33000),
    ),
    "Tesla": (
        Model("Model Y", "suv", (_E,), 50000),
        Model("Roadster", "convertible", (_E,), 90000),
    ),
    "Peugeot": (
        Model("208", "hatchback", (_P, _D, _E), 22000),
        Model("3008", "suv", (_P, _D, _H), 35000),
        Model("Partner", "van", (_D,), 29000),
    ),
}


def _words(text: str) -> list[str]:
    return text.split()


_GIVEN = _words(
    "Ana Marko Elif Tomas Ingrid Pedro Yuki Amara Liam Noor Sofia Daniel Priya Hassan Greta Mateo Chloe Ivan Leila "
    "Oscar Maya Felix Zara Hugo Nina Samuel Aisha Viktor Clara Rahul Emma Jonas Fatima Lucas Olga Diego Hannah Kenji "
    "Lucia Omar Elena Patrick Salma Andrei Julia Kofi Martina Wei Nadia Simon Rosa Anders Tara Miguel Vera Dmitri "
    "Alice Kwame Paula Henrik Lina Arjun Monica Stefan Carmen Tariq Helena Bruno Mina Gabriel Ines Rafael Sana Erik"
)
_FAMILY = _words(
    "Brankovic Okafor Lindqvist Moreau Tanaka Silva Novak Haddad Jensen Kowalski Fischer Romano Petrov Nguyen Garcia "
    "Murphy Andersson Dubois Khan Schmidt Costa Ivanova Yilmaz Papadopoulos Larsen Horvat Weber Mbeki Rossi Sato "
    "Fernandez O'Neill Bergstrom Popescu Ahmed Nakamura Virtanen Castillo Hughes Laurent Mehta Ferrari Nowak Koch "
    "Delgado Eriksen Marchetti Balogun Keller Sorensen Vidal Rahman Bianchi Walsh Takahashi Meyer Soto Dimitrov "
    "Aalto Mendes Farah Bauer Osei Morales Hansen Rinaldi Cohen Iversen Ortega Bielski Chandra Lambert Zielinski"
)
_HEADS = _words("Ba Ber Cal Dor El Fen Gar Hal Jo Kal Lor Mar Ned Or Pel Quin Ras Sel Tor Ul Ven Wil Yor Zan")
_MIDDLES = _words("a ada ali ani ari ela eni era ido ima ini ira oli oma ona ora una uri")
_TAILS = _words("n r s l m th ck dra lia mir na nis ra ric ris ta tan vic wen ya")
_ENDS = _words("berg dal ev ez feld ic ini kov land man more nes osa ov ovic sen ski son ton well")


def _pool(names: list[str], heldout: bool) -> list[str]:
    cut = len(names) * 2 // 3
    return names[cut:] if heldout else names[:cut]


def compose_name(rng: random.Random, *, heldout: bool) -> str:
    """Draw a full name: each part from the split's list, or composed from syllables; sometimes double-barrelled."""
    given = rng.choice(_pool(_GIVEN, heldout))
    if rng.random() < 0.5:
        given = rng.choice(_HEADS) + rng.choice(_MIDDLES) + rng.choice(_TAILS)
    family = rng.choice(_pool(_FAMILY, heldout))
    if rng.random() < 0.5:
        family = rng.choice(_HEADS) + rng.choice(_MIDDLES) + rng.choice(_ENDS)
    if rng.random() < 0.05:
        family += "-" + rng.choice(_pool(_FAMILY, heldout))
    return f"{given} {family}"


def find_model(make: str, model: str) -> Model | None:
    """The model line, whatever the case of the letters; None where it is not in the catalogue."""
    lines = next((models for name, models in CATALOGUE.items() if name.lower() == make.lower()), ())
    return next((line for line in lines if line.name.lower() == model.lower()), None)
