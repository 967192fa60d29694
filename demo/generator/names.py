"""Names of businesses and people. The two vocabularies share no stem: `held` is never trained on."""

import re

from .locales import LOCALES

_LABEL_WORDS = sorted({
    word.lower() for locale in LOCALES for values in locale.labels.values() for text in values
    for word in re.findall(r"[^\W\d_]{3,}", text)})

_STEMS = {
    "train": (
        "Acorn Alder Amber Anchor Apex Arbor Argent Aster Atlas Aurora Badger Barley Beacon Birch "
        "Blue Bolt Bramble Bridge Bright Brook Canyon Capital Carbon Cedar Central Circle Clear "
        "Cloud Clover Cobalt Comet Copper Coral Crest Crown Crystal Delta Digital Dove Eagle East "
        "Echo Eden Ember Emerald Falcon Fern First Fjord Flint Forest Fox Frost Galaxy Gamma Glen "
        "Global Golden Granite Green Grove Harbor Hawk Hazel Heron Hill Horizon Iris Iron Ivory "
        "Jade Juniper Keystone Lake Lark Laurel Lime Linden Lotus Lunar Lynx Maple Marble Meadow "
        "Mercury Metro Mint Modern Moon Moss Nimbus Noble Nordic North Nova Oak Ocean Olive Onyx "
        "Opal Orbit Orchard Osprey Otter Pacific Palm Park Pearl Pine Pioneer Planet Polar Prime "
        "Quartz Quick Raven Red Ridge River Robin Rock Royal Ruby Sage Sand Sapphire Shore Silver "
        "Sky Smart Snow Solar South Spark Spruce Star Stone Storm Sun Swift Thistle Tiger Timber "
        "Titan Trident Tulip Union United Urban Vale Vector Velvet Vertex Violet Vista West White "
        "Willow Wind Winter Wolf Wood York Zenith Zephyr Sonne Berg Wald Stern Adler Falke Rhein "
        "Hansa Soleil Lumière Étoile Bois Montagne Rivière Sol Luna Monte Mar Rosa Casa Verde "
        "Stella Fiore Bella Ponte Zon Zee Duin Molen Gouden Słońce Gwiazda Dąb Norr Skog Sjö Hav "
        "Praia Serra Ribeira"
    ).split(),
    "held": (
        "Almond Bison Cactus Dahlia Elm Finch Garnet Hickory Indigo Jasper Kestrel Lagoon Magnolia "
        "Nectar Obsidian Peregrine Quill Rowan Saffron Tundra Umber Vireo Walnut Yarrow Zircon "
        "Birke Eiche Kranich Donau Colline Marais Pinède Castaño Lobo Águila Faggio Cervo Aquila "
        "Heide Wilg Reiger Sosna Orzeł Björk Älg Bøg Svane Carvalho Cegonha"
    ).split(),
}
_TRADES = {
    "train": (
        "Consulting Foods Logistics Media Systems Software Design Print Motors Energy Textiles "
        "Supplies Trading Solutions Services Partners Group Labs Studio Works Catering Plumbing "
        "Electric Construction Pharma Optics Security Travel Dental Garden Interiors Packaging "
        "Books Bikes Bakery Café Hotel Bau Elektro Technik Handel Transporte Maschinenbau Möbel "
        "Bäckerei Apotheke Conseil Bâtiment Transports Boulangerie Informatique Construcciones "
        "Suministros Talleres Panadería Costruzioni Ristorante Officina Forniture Bouw Techniek "
        "Bloemen Installatie Usługi Budowa Handlowa Bygg Måleri Konsult Byg Fragt Construções"
    ).split(),
    "held": (
        "Brewing Ceramics Drones Freight Glassworks Hardware Joinery Kitchens Lighting Marine "
        "Nursery Plastics Roofing Seeds Tooling Veterinary Gerüstbau Spedition Gartenbau Menuiserie "
        "Fromagerie Carpintería Bodegas Falegnameria Cantina Timmerwerk Kwekerij Drukarnia Snickeri "
        "Tømrer Padaria"
    ).split(),
}
_FIRST = {
    "train": (
        "Anna Ben Carla David Elena Felix Greta Hugo Ines Jonas Karin Luca Marta Nils Olga Paul "
        "Rosa Sven Tina Ute Viktor Wanda Yusuf Zoe James Emily Pierre Chloé José Lucía Marco Giulia "
        "Jan Sanne Piotr Agnieszka Lars Astrid João Sofia Amir Priya Wei Kofi"
    ).split(),
    "held": "Albert Brigitte Conrad Delphine Esteban Fiona Gianni Hedda Ivo Joanna Kasper Leonor".split(),
}
_LAST = {
    "train": (
        "Smith Jones Taylor Brown Wilson Evans Müller Schmidt Weber Wagner Becker Hoffmann Koch "
        "Dubois Moreau Laurent Petit Leroy García Martínez López Sánchez Rossi Russo Ferrari Bianchi "
        "Romano Jansen Bakker Visser Smit Kowalski Nowak Wiśniewski Lindberg Andersson Nilsson "
        "Jensen Nielsen Hansen Silva Santos Ferreira Patel Khan Chen Nguyen O'Brien McCarthy Okafor"
    ).split(),
    "held": (
        "Abernathy Blackwood Cartwright Drescher Eisenhardt Fournier Gauthier Huerta Iglesias "
        "Lombardi Marchetti Nooteboom Overbeek Pawlak Rydberg Søndergaard Teixeira Vasquez"
    ).split(),
}
# Invented words: onset + nucleus (+ coda), twice or three times.
_SYLLABLES = {
    "train": (
        "b c d f g k l m n p r s t v z br cl dr fl gr kr pl st tr sch".split(),
        "a e i o u a e i o ai ea ou".split(),
        ["", "", "", "", "n", "r", "s", "l", "x", "nd", "rt", "m", "ck"],
    ),
    "held": (
        "h j w y q th sk sp sw bl fr gl pr vr kn n m".split(),
        "a e i o u y oa ie ue ee".split(),
        ["", "", "", "t", "p", "lm", "ff", "g", "nt", "sk", "ll"],
    ),
}


def _letters(rng):
    """Any letters, so that training copies every piece of a word in every place."""
    size = rng.choice((2, 3, 4, 5, 6, 7, 8, 10))
    alphabet = "abcdefghijklmnopqrstuvwxyz" + ("äöüßéèêëçàáâåæøñóòôõíîïúùûýłśżźćńąęőž"
                                                if rng.random() < 0.3 else "")
    return "".join(rng.choice(alphabet) for _ in range(size))


def _spliced(rng):
    """Pieces of the words of all labels, put together anew."""
    parts = []
    for _ in range(rng.choice((1, 2, 2, 3))):
        piece = rng.choice(_LABEL_WORDS)
        start = rng.randrange(max(1, len(piece) - 2))
        parts.append(piece[start:start + rng.choice((2, 3, 4, 5, 6, 9))])
    return "".join(parts)


_LINKS = ("du", "de", "de la", "des", "of", "and", "the", "von", "van", "van der", "am", "im", "zur",
          "di", "del", "della", "dei", "do", "da", "dos", "y", "e", "i", "og", "och", "en", "und", "et",
          "+", "für", "pour", "per", "for", "at", "&", "à la", "los", "le", "la", "el", "il", "ved")


def word(rng, vocabulary):
    """An invented, capitalised word; training draws from more sources than the held-out split."""
    if vocabulary == "train":
        kind = rng.random()
        if kind < 0.6:
            text = _letters(rng) if kind < 0.25 else _spliced(rng)
            cased = rng.random()
            if cased < 0.75:
                return text[:1].upper() + text[1:]
            return text.upper() if cased < 0.9 else text
    onsets, nuclei, codas = _SYLLABLES[vocabulary]
    syllables = [
        rng.choice(onsets) + rng.choice(nuclei) + rng.choice(codas)
        for _ in range(rng.choice((2, 2, 3)))
    ]
    return "".join(syllables).capitalize()


def person(rng, vocabulary):
    """First and last name, either possibly invented."""
    first = word(rng, vocabulary) if rng.random() < 0.2 else rng.choice(_FIRST[vocabulary])
    last = word(rng, vocabulary) if rng.random() < 0.4 else rng.choice(_LAST[vocabulary])
    middle = f" {rng.choice('ABCDEFGHJKLMPRSTW')}." if rng.random() < 0.1 else ""
    return f"{first}{middle} {last}"


def _core(rng, vocabulary):
    stem = word(rng, vocabulary) if rng.random() < 0.6 else rng.choice(_STEMS[vocabulary])
    trade = rng.choice(_TRADES[vocabulary])
    if vocabulary == "train" and rng.random() < 0.4:
        trade = word(rng, vocabulary)
    last = rng.choice(_LAST[vocabulary]) if rng.random() < 0.6 else word(rng, vocabulary)
    second = word(rng, vocabulary) if rng.random() < 0.4 else rng.choice(_STEMS[vocabulary])
    kind = rng.randrange(24)
    if kind < 5:
        return f"{stem} {trade}"
    if kind >= 16:  # longer names, with the small words that join them
        link = rng.choice(_LINKS)
        return rng.choice((
            f"{trade} {link} {stem}", f"{trade} {link} {stem} {second}", f"{stem} {second} {trade}",
            f"{stem} {trade} {link} {second}", f"{last}'s {trade}", f"The {stem} {trade}",
            f"{last}, {stem} & {second}", f"{stem} {link} {last}", f"{stem} {trade} {second} {last}",
            f"{stem}-{second} {trade}", f"{trade} {last} {link} {second}", f"{last} {stem} {trade}"))
    return (
        stem,
        f"{stem} {second}",
        f"{last} & {word(rng, vocabulary)}",
        f"{last} {trade}",
        f"{trade} {last}",
        stem + rng.choice(("tech", "soft", "net", "media", "line", "ware", "plan", "fix", "hub")),
        f"{stem}{second}",
        f"{stem.upper()} {trade}",
        "".join(rng.choice("ABCDEFGHIKLMNPRSTVW") for _ in range(rng.choice((2, 3, 3, 4))))
        + rng.choice((f" {trade}", "", f"-{trade}")),
        stem.lower() + rng.choice((".io", ".com", ".eu", ".shop")),
        f"{stem} {trade} {rng.choice(('24', '2000', '3', '360', 'One', 'Plus', 'International'))}",
    )[kind - 5]


def company(rng, locale, vocabulary):
    """A business name as its letterhead prints it, with or without a legal form."""
    core = _core(rng, vocabulary)
    if core.endswith((".io", ".com", ".eu", ".shop")) or rng.random() < 0.22:
        return core
    legal = rng.choice(locale.legal)
    return core + legal if legal.startswith(",") else f"{core} {legal}"
