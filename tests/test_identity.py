"""What decides a number is in the digest that names checkpoints and results, field by field."""

from dataclasses import fields, replace

import pytest

from protembed.identity import Identity, differences

RECIPE = Identity("ab" * 32, (0, 6), ("mean",), "float32", "truncate", 1022, 1)
OTHERS = dict(
    weights_sha256="cd" * 32,
    repr_layers=(6,),
    include=("bos", "mean"),
    compute_dtype="float16",
    long_sequences="window",
    max_residues=1021,
    numerics=2,
    regression_sha256="ef" * 32,
)


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_another_value_of_any_field_is_another_recipe_that_comes_back_from_its_text(name):
    other = replace(RECIPE, **{name: OTHERS[name]})
    assert other.digest != RECIPE.digest and len(differences(RECIPE, other)) == 1
    assert Identity.from_json(other.as_json()) == other
