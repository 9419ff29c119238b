"""Topic grammar: a device's name can never change what a topic means."""

from __future__ import annotations

import pytest

from fitment.core import link
from fitment.wire import topics, version


@pytest.mark.parametrize("name", ["pi-5", "A_1", "x" * 64])
def test_names_that_may_be(name: str) -> None:
    assert topics.valid_device_name(name)
    assert topics.device_of(topics.topic(name, topics.REPORTED)) == name


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "ctl.1", "x" * 65, "a b", "ü", "a\n"])
def test_names_that_may_not_be(name: str) -> None:
    assert not topics.valid_device_name(name)
    with pytest.raises(ValueError, match="not a device name"):
        topics.topic(name, topics.REPORTED)


@pytest.mark.parametrize(
    "name", ["fitment/v1/d/down/desired", "fitment/v2/d/up/reported", "x", "fitment/v1/+/up/x", ""]
)
def test_foreign_topics_have_no_device(name: str) -> None:
    assert topics.device_of(name) is None


def test_every_field_of_the_link_messages_has_a_kind() -> None:
    assert set(topics.UP) == set(link.Uplink.__dataclass_fields__)
    assert set(topics.DOWN) == set(link.Downlink.__dataclass_fields__)


def test_versions() -> None:
    assert version.compatible(version.PROTOCOL)
    assert version.compatible(version.PROTOCOL + 1)
    assert not version.compatible(version.OLDEST - 1)
