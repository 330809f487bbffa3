"""Names of made-up people, from two disjoint pools: one for worlds that are trained on, one for held-out worlds.

About half of the parts are composed from syllables, so that no list can be learnt by heart.
"""

import random

_GIVEN = (
    "Ada Bruno Cora Dario Edith Farid Gemma Hamid Iris Joel Karin Lotte Malik Noemi Otto Pia Quentin Rania Sven Tilda "
    "Ugo Vito Wanda Xenia Yara Zeno Alma Bela Carla Dora Elias Frida Gustav Hilda Imre Jana Kamal Linus Mira Nils"
).split()
_FAMILY = (
    "Abbott Barros Carlsen Duarte Ekman Fontaine Gruber Halvorsen Ito Jankovic Kaya Lehmann Madsen Nordin Okoye "
    "Pereira Quist Rahimi Santoro Thorne Ueda Valente Wagner Ximenes Young Zamora Aydin Blom Crespo Dvorak Eliasson "
    "Fabre Galli Hajek Ilic Jovic Kruger Lund Marino Nygaard"
).split()
_HEADS = "Ba Ber Cal Dor El Fen Gar Hal Jo Kal Lor Mar Ned Or Pel Quin Ras Sel Tor Ul Ven Wil Yor Zan".split()
_MIDDLES = "a ada ali ani ari ela eni era ido ima ini ira oli oma ona ora una uri".split()
_GIVEN_ENDS = "n r s l m th ck dra lia mir na nis ra ric ris ta tan vic wen ya".split()
_FAMILY_ENDS = "berg dal ev ez feld ic ini kov land man more nes osa ov ovic sen ski son ton well".split()


def pool(items: list[str], heldout: bool) -> list[str]:
    """The split's share of a list: two thirds for training, one third held out."""
    cut = len(items) * 2 // 3
    return items[cut:] if heldout else items[:cut]


def person(rng: random.Random, *, heldout: bool) -> str:
    """Draw a full name."""
    given = _part(rng, pool(_GIVEN, heldout), _GIVEN_ENDS)
    return f"{given} {_part(rng, pool(_FAMILY, heldout), _FAMILY_ENDS)}"


def _part(rng: random.Random, listed: list[str], ends: list[str]) -> str:
    if rng.random() < 0.5:
        return rng.choice(listed)
    return rng.choice(_HEADS) + rng.choice(_MIDDLES) + rng.choice(ends)
