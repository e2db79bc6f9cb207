"""What the parametric face looks like: proportions, colours and hair from a profile and an avatar's number.

Everything is a pure function of (profile, avatar id), so an avatar looks the same in every clip and on every machine.
"""

import dataclasses
import hashlib

import numpy as np

from empatheia_jax.data.schema import Profile

Colour = tuple[int, ...]  # red, green, blue, each 0..255

SKIN_COLOURS: tuple[Colour, ...] = (
    (250, 221, 198),
    (243, 205, 178),
    (233, 188, 156),
    (219, 168, 132),
    (196, 141, 104),
    (164, 112, 80),
    (126, 83, 60),
)
HAIR_COLOURS: dict[str, tuple[Colour, ...]] = {
    "child": ((226, 178, 98), (150, 92, 48), (92, 58, 36), (178, 88, 44), (46, 36, 34)),
    "young": ((48, 36, 34), (92, 58, 38), (140, 86, 48), (214, 166, 92), (160, 70, 40)),
    "middle-aged": ((62, 50, 46), (98, 74, 58), (120, 92, 66), (112, 106, 104), (140, 100, 70)),
    "elderly": ((228, 226, 224), (204, 204, 206), (180, 180, 184), (216, 210, 198)),
}
HAIR_STYLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("child", "male"): ("bowl", "tousled", "short"),
    ("child", "female"): ("pigtails", "fringe_long", "bob"),
    ("young", "male"): ("quiff", "short", "curly_short"),
    ("young", "female"): ("long", "fringe_long", "ponytail", "curly_long"),
    ("middle-aged", "male"): ("short", "receding", "quiff"),
    ("middle-aged", "female"): ("bob", "bun", "wavy"),
    ("elderly", "male"): ("bald", "receding"),
    ("elderly", "female"): ("bun", "curly_short_full", "wavy"),
}
BEARDS: dict[str, tuple[str, ...]] = {
    "child": ("none",),
    "young": ("none", "stubble", "none"),
    "middle-aged": ("stubble", "full", "moustache"),
    "elderly": ("full", "moustache", "none"),
}
EYE_COLOURS: tuple[Colour, ...] = ((72, 46, 30), (58, 92, 132), (70, 104, 66), (96, 68, 36), (84, 100, 112))
BACKGROUNDS: tuple[Colour, ...] = (
    (188, 214, 226),
    (226, 206, 190),
    (198, 216, 192),
    (216, 202, 226),
    (232, 220, 182),
    (194, 204, 222),
    (228, 198, 202),
)
CLOTHES: dict[str, tuple[Colour, ...]] = {
    "child": ((238, 98, 82), (74, 168, 210), (250, 188, 60), (110, 188, 112)),
    "young": ((58, 84, 124), (178, 74, 92), (64, 120, 112), (98, 84, 140)),
    "middle-aged": ((70, 82, 100), (112, 74, 74), (76, 98, 84), (92, 92, 118)),
    "elderly": ((128, 112, 100), (104, 114, 132), (134, 104, 118), (112, 122, 104)),
}


@dataclasses.dataclass(frozen=True)
class Appearance:
    """What the parametric face draws for an avatar. Hashable, so that drawings can be cached.

    Attributes:
      age: one of `emotions.AGES`.
      gender: one of `emotions.GENDERS`.
      skin: colour of the skin.
      hair: colour of the hair and, darker, of the brows.
      hair_style: one of the names in `HAIR_STYLES`.
      beard: one of the names in `BEARDS`.
      eyes: colour of the irises.
      background: colour behind the head.
      clothes: colour of the clothes.
      face_width: the person's own factor on the width of the head, about 1.
      nose_size: the person's own factor on the size of the nose, about 1.
      brow_weight: the person's own factor on the thickness of the brows, about 1.
    """

    age: str = "young"
    gender: str = "female"
    skin: Colour = SKIN_COLOURS[1]
    hair: Colour = HAIR_COLOURS["young"][1]
    hair_style: str = "long"
    beard: str = "none"
    eyes: Colour = EYE_COLOURS[0]
    background: Colour = BACKGROUNDS[0]
    clothes: Colour = CLOTHES["young"][0]
    face_width: float = 1.0
    nose_size: float = 1.0
    brow_weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Proportions:
    """Positions and sizes on the head, in units of the picture's side before framing (x from the middle, y downwards).

    The eye line (`EYE_Y`) is the same for everybody; age and gender move the rest around it.
    """

    top: float
    width: float  # half width at the cheekbones
    jaw: float  # half width of the jaw as a share of `width`
    chin: float
    chin_width: float
    eye_x: float
    eye_size: float
    brow_y: float
    brow_thickness: float
    nose_y: float
    nose_size: float
    mouth_y: float
    mouth_size: float
    lip: float  # thickness of the lips
    neck: float
    shoulders: float
    lashes: float


EYE_Y = 0.455

_PERSONS = (
    ("child", "male"),
    ("child", "female"),
    ("young", "male"),
    ("young", "female"),
    ("middle-aged", "male"),
    ("middle-aged", "female"),
    ("elderly", "male"),
    ("elderly", "female"),
)
_MEASURES = {  # a row for each field of `Proportions`, a column for each of `_PERSONS`
    "top": (0.105, 0.105, 0.118, 0.118, 0.118, 0.118, 0.122, 0.122),
    "width": (0.240, 0.235, 0.227, 0.216, 0.235, 0.225, 0.227, 0.220),
    "jaw": (0.9, 0.88, 0.91, 0.83, 0.96, 0.9, 0.95, 0.93),
    "chin": (0.745, 0.742, 0.805, 0.788, 0.818, 0.798, 0.822, 0.802),
    "chin_width": (0.4, 0.38, 0.52, 0.38, 0.58, 0.46, 0.54, 0.46),
    "eye_x": (0.109, 0.109, 0.101, 0.101, 0.102, 0.102, 0.101, 0.101),
    "eye_size": (1.336, 1.399, 1.147, 1.334, 1.100, 1.217, 0.983, 1.053),
    "brow_y": (0.372, 0.37, 0.382, 0.374, 0.384, 0.376, 0.386, 0.38),
    "brow_thickness": (0.013, 0.013, 0.017, 0.014, 0.018, 0.015, 0.018, 0.015),
    "nose_y": (0.552, 0.55, 0.58, 0.57, 0.59, 0.578, 0.596, 0.584),
    "nose_size": (0.72, 0.66, 1.08, 0.82, 1.2, 0.94, 1.28, 1.04),
    "mouth_y": (0.632, 0.63, 0.675, 0.664, 0.684, 0.672, 0.692, 0.68),
    "mouth_size": (0.896, 0.896, 1.165, 1.075, 1.210, 1.12, 1.165, 1.075),
    "lip": (0.8, 0.95, 0.85, 1.25, 0.75, 1.05, 0.55, 0.75),
    "neck": (0.075, 0.07, 0.112, 0.082, 0.125, 0.09, 0.105, 0.086),
    "shoulders": (0.235, 0.225, 0.345, 0.275, 0.36, 0.295, 0.32, 0.275),
    "lashes": (0.2, 0.8, 0.1, 1, 0, 0.7, 0, 0.3),
}
_PROPORTIONS = {
    person: Proportions(**{name: values[index] for name, values in _MEASURES.items()})
    for index, person in enumerate(_PERSONS)
}


def proportions(appearance: Appearance) -> Proportions:
    """Return the head of an appearance: that of its age and gender, with the person's own width, nose and brows."""
    base = _PROPORTIONS[appearance.age, appearance.gender]
    return dataclasses.replace(
        base,
        width=base.width * appearance.face_width,
        nose_size=base.nose_size * appearance.nose_size,
        brow_thickness=base.brow_thickness * appearance.brow_weight,
    )


def avatar_rng(avatar_id: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one avatar for one purpose, the same on every machine."""
    digest = hashlib.blake2b(f"{purpose}/{avatar_id}".encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def appearance_for(profile: Profile, avatar_id: int) -> Appearance:
    """Return an avatar's appearance: age and gender decide proportions, hair and clothes, its number the rest.

    Args:
      profile: age and gender as in `emotions.AGES` and `emotions.GENDERS` (timbre is heard, not seen).
      avatar_id: the avatar's number, which decides skin, colours and details.

    Returns:
      The same appearance for the same arguments, always.

    Raises:
      ValueError: an unknown age or gender.
    """
    key = (profile.age, profile.gender)
    if key not in HAIR_STYLES:
        raise ValueError(f"no face for age {profile.age!r}, gender {profile.gender!r}")
    rng = avatar_rng(avatar_id, "appearance")

    def pick(options):
        return options[int(rng.integers(len(options)))]

    skin = pick(SKIN_COLOURS)
    dark_skinned = sum(skin) < 420
    hair = pick(HAIR_COLOURS[profile.age][: 3 if dark_skinned and profile.age != "elderly" else None])
    if dark_skinned and profile.age in ("child", "young"):
        hair = (42, 32, 30)
    return Appearance(
        age=profile.age,
        gender=profile.gender,
        skin=skin,
        hair=hair,
        hair_style=pick(HAIR_STYLES[key]),
        beard=pick(BEARDS[profile.age]) if profile.gender == "male" else "none",
        eyes=EYE_COLOURS[0] if dark_skinned else pick(EYE_COLOURS),
        background=pick(BACKGROUNDS),
        clothes=pick(CLOTHES[profile.age]),
        face_width=float(rng.uniform(0.97, 1.04)),
        nose_size=float(rng.uniform(0.88, 1.14)),
        brow_weight=float(rng.uniform(0.9, 1.12)),
    )
