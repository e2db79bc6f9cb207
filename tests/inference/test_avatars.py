"""The avatar table: complete, split in two, and consistent."""

import collections

import numpy as np
import pytest

from empatheia_jax.data.schema import Profile
from empatheia_jax.inference.avatars import (
    AVATARS,
    TEST_AVATARS,
    TRAIN_AVATARS,
    AvatarError,
    avatar,
    avatars_of,
    choose_avatar,
)


def kind(member):
    return member.profile.age, member.profile.gender, member.profile.timbre


def test_every_profile_is_in_both_parts():
    assert [member.id for member in AVATARS] == list(range(1, len(AVATARS) + 1))
    assert collections.Counter(map(kind, TRAIN_AVATARS)) == {kind(member): 2 for member in AVATARS}
    assert collections.Counter(map(kind, TEST_AVATARS)) == {kind(member): 1 for member in AVATARS}
    assert len({kind(member) for member in AVATARS}) == 24
    assert not {member.id for member in TRAIN_AVATARS} & {member.id for member in TEST_AVATARS}


def test_look_up():
    assert avatar(17).id == 17
    wanted = Profile("elderly", "female", "low")
    assert all(kind(member) == ("elderly", "female", "low") for member in avatars_of(wanted))
    assert [member.held_out for member in avatars_of(wanted)] == [False, False, True]
    assert choose_avatar(wanted) == avatars_of(wanted)[0]
    last = avatars_of(wanted)[-1]
    assert choose_avatar(last.profile) == last  # its own number
    assert choose_avatar(Profile("elderly", "female", "low", id=9999)) == avatars_of(wanted)[0]
    assert kind(choose_avatar(Profile("child", "male", "high", id=last.id))) == ("child", "male", "high")


@pytest.mark.parametrize("number", (0, -1, len(AVATARS) + 1))
def test_unknown_number(number):
    with pytest.raises(AvatarError, match="no avatar"):
        avatar(number)


def test_unknown_profile():
    with pytest.raises(AvatarError, match="timbre of high, mid, low"):
        avatars_of(Profile("young", "male", "gentle"))


def test_face_and_voice_belong_to_the_avatar():
    first, second = avatars_of(Profile("young", "female", "mid"))[:2]
    assert first.portrait.appearance == first.appearance != second.appearance
    assert np.array_equal(first.voice("sad"), avatar(first.id).voice("sad"))
    assert not np.array_equal(first.voice("sad"), second.voice("sad"))
    assert not np.array_equal(first.face("sad"), first.face("happy"))
