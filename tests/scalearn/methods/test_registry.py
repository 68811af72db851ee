"""The method registry: published defaults, and settings that are checked before anything is trained."""

from dataclasses import fields

import pytest

from scalearn.config import OptimisationConfig
from scalearn.errors import UserError
from scalearn.methods.registry import METHODS, get_method
from scalearn.methods.settings import resolve_settings

FIELDS = {item.name for item in fields(OptimisationConfig)}


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.key)
def test_method_names_optimisation_fields_that_exist_and_gives_a_learning_rate(method):
    assert set(method.optimisation) <= FIELDS
    assert "learning_rate" in method.optimisation
    assert method.needs_sources == (method.stage == "transfer")


def test_methods_have_different_titles_and_positions():
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert len({method.order for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize(
    ("key", "dropout"),
    [
        ("scalearn", 0.3),
        ("scalearn_uniform", 0.3),
        ("scalearn_pp", 0.3),
        ("scalearn_uniform_pp", 0.0),
        ("scalearn_mean", 0.0),
        ("scalearn_softmax", 0.0),
    ],
)
def test_omega_dropout_is_the_published_one(key: str, dropout: float):
    assert resolve_settings(get_method(key), {}, 8)["omega_dropout"] == dropout


def test_given_settings_are_laid_over_the_defaults_in_their_own_type():
    settings = resolve_settings(get_method("scalearn"), {"omega_dropout": 0}, 8)
    assert settings == {"omega_dropout": 0.0, "omega_init_scale": 2.0, "omega_weight_decay": 0.0}
    assert type(settings["omega_dropout"]) is float


def test_fixed_omega_needs_one_number_per_source():
    method = get_method("scalearn_fixed")
    assert resolve_settings(method, {"omega": (1, 0.5)}, 2) == {"omega": (1.0, 0.5)}
    with pytest.raises(UserError, match="has 2 numbers for 3 sources"):
        resolve_settings(method, {"omega": (1, 0.5)}, 3)
    with pytest.raises(UserError, match="needs the setting 'omega'"):
        resolve_settings(method, {}, 3)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("scalearn", {"omega_dropout": 1.0}),
        ("scalearn", {"omega_dropout": -0.1}),
        ("scalearn", {"omega_dropout": True}),
        ("scalearn", {"omega_dropout": "0.3"}),
        ("scalearn", {"omega_dropout": float("nan")}),
        ("scalearn", {"omega_init_scale": (1.0,)}),
        ("scalearn", {"dropout": 0.1}),
        ("adapter", {"reduction_factor": 16.0}),
        ("adapter", {"reduction_factor": 0}),
        ("adapterfusion", {"dropout": 0.1}),
        ("scalearn_fixed", {"omega": 0.5}),
        ("scalearn_fixed", {"omega": ()}),
        ("scalearn_fixed", {"omega": ("a",)}),
        ("scalearn_fixed", {"omega": (float("inf"),)}),
    ],
)
def test_wrong_setting_is_refused_in_one_sentence(key: str, settings: dict):
    with pytest.raises(UserError) as caught:
        resolve_settings(get_method(key), settings, 1)
    assert "\n" not in str(caught.value)


def test_unknown_method_names_the_nearest():
    with pytest.raises(UserError, match="Unknown method 'scalern'; did you mean 'scalearn'"):
        get_method("scalern")


def test_list_of_omegas_is_the_tuple() -> None:
    method = get_method("scalearn_fixed")
    assert resolve_settings(method, {"omega": [1, 0.5]}, 2) == resolve_settings(method, {"omega": (1.0, 0.5)}, 2) == {"omega": (1.0, 0.5)}
    with pytest.raises(UserError, match="must be a list of numbers, not \\[\\]"):
        resolve_settings(method, {"omega": []}, 2)
