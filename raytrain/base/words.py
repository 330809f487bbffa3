"""Open-ended words for the base's practice material: names, brands, codes, amounts and times.

Everything is drawn from a `random.Random`, so that a seed repeats it. Names and brands are composed, because a
model that sees a name twice learns the name and not the copying.
"""

from random import Random

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FIRST = (
    "Ana Ben Carla Dmitri Elif Farah Goran Hana Ivo Jonas Keiko Lena Marco Nadia Omar Petra Quinn Rosa Samir Tomas "
    "Uma Viktor Wanda Xenia Yusuf Zoe Aisha Bruno Chloe Diego Emma Felix Grace Henrik Ines Jakub Kofi Lucia Mateo "
    "Noor Olga Priya Ravi Sofia Theo Mei Liam Noah Olivia Amelia James Maria David Sarah Daniel Laura Peter Julia"
).split()
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr kr pr sh st th tr vl".split()
_NUCLEI = "a e i o u ai ea ie oa ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "nd", "rt", "ck", "x", "th", "lt"]
_ENDINGS = ["", "", "son", "ova", "ic", "ez", "sen", "ski", "ford", "ley", "er", "man", "ini", "i", "dt", "wood"]


def syllable(rng: Random) -> str:
    """One pronounceable syllable."""
    return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS)


def made_up(rng: Random, low: int = 2, high: int = 3) -> str:
    """A capitalised word of `low` to `high` syllables that no dictionary has."""
    return "".join(syllable(rng) for _ in range(rng.randint(low, high))).capitalize()


def word(rng: Random) -> str:
    """A lower-case word that no dictionary has."""
    return made_up(rng, 1, 3).lower()


def person(rng: Random) -> str:
    """A first and a last name, both drawn from open sets half of the time and more."""
    first = rng.choice(_FIRST) if rng.random() < 0.6 else made_up(rng, 1, 2)
    last = made_up(rng, 1, 2) + rng.choice(_ENDINGS)
    form = rng.random()
    if form < 0.06:
        last = f"{rng.choice(('O', 'D'))}'{last}"
    elif form < 0.14:
        last += f"-{made_up(rng, 1, 2)}"
    if rng.random() < 0.08:
        return f"{first} {made_up(rng, 1, 2)} {last}"
    return f"{first} {last}"


def code(rng: Random, prefix: str | None = None, digits: int | None = None) -> str:
    """A short identifier: one or two capitals and three to eight digits."""
    letters = prefix if prefix is not None else "".join(rng.choices("ABCDEFGHJKLMNPRSTUVWXYZ", k=rng.choice((1, 1, 2))))
    return letters + "".join(rng.choices("0123456789", k=digits or rng.choice((3, 4, 4, 5, 6, 7, 8))))


def product(rng: Random) -> str:
    """A product name: a word, a word with a number, or letters and digits."""
    form = rng.random()
    if form < 0.5:
        return made_up(rng, 1, 3)
    if form < 0.7:
        return f"{made_up(rng, 1, 2)} {rng.randint(1, 900)}"
    if form < 0.85:
        return f"{rng.choice('ABCDEFGHIKLMNPRSTVXZ')}{rng.randint(1, 99)}"
    return f"{made_up(rng, 1, 2)} {made_up(rng, 1, 2)}"


def amount(rng: Random) -> int:
    """A whole amount between 5 and 250,000, rounded as people round them or not at all."""
    value = int(10 ** rng.uniform(1.0, 5.4))
    step = rng.choice((1, 1, 5, 50, 100, 500, 1000))
    return max(5, value // step * step) or 5


def spoken_amount(rng: Random, value: int) -> str:
    """`value` as a customer may write it: 30000, 30,000, $30,000, 30k."""
    forms = [str(value), f"{value:,}"]
    if value % 1000 == 0 and value:
        forms += [f"{value // 1000}k", f"{value // 1000} thousand"]
    return rng.choice(forms)


def hour(rng: Random) -> int:
    """An hour of the day between 6 and 22."""
    return rng.randint(6, 22)


def spoken_hour(rng: Random, value: int) -> str:
    """An hour as a customer may write it: 15:00, 3pm, 3 pm, 3 in the afternoon."""
    twelve = value - 12 if value > 12 else value
    half = "am" if value < 12 else "pm"
    part = "in the morning" if value < 12 else "in the afternoon" if value < 18 else "in the evening"
    forms = [f"{value}:00", f"{value:02d}:00", f"{twelve}{half}", f"{twelve} {half}", f"{twelve} {part}"]
    forms += [f"{twelve}:00 {half}", f"{twelve} o'clock {part}"]
    return rng.choice(forms)


def clock(value: int) -> str:
    """An hour in the 24-hour form that records use."""
    return f"{value:02d}:00"
