"""What decides a number. Two vectors may be mixed, reused or resumed only when their identities are equal.

Everything that can change a value beyond the fp32 bound is a field here; nothing else is: pack budget, devices, paths,
thread counts and the text of our code do not belong. Standard library only.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Dict, List, Sequence, Tuple

from protembed.errors import BadOption

# Raise this when a golden test shows that the numbers of an unchanged model and input have moved.
NUMERICS = 1


@dataclass(frozen=True)
class Identity:
    """The recipe of a vector; `digest` names it in paths and files."""

    weights_sha256: str
    repr_layers: Tuple[int, ...]  # as in fair-esm, 0..number of layers, resolved (no negatives), rising
    include: Tuple[str, ...]  # of mean, per_tok, bos, contacts; sorted
    compute_dtype: str  # float32, float16 or bfloat16
    long_sequences: str  # what happens beyond max_residues: error, truncate, window or full
    max_residues: int
    numerics: int = NUMERICS
    regression_sha256: str = ""  # when contacts are included

    def as_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; without what does not apply."""
        fields = {name: value for name, value in asdict(self).items() if value != ""}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """32 hexadecimal digits (128 bits of SHA-256)."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()[:32]

    def as_attributes(self) -> Dict[str, object]:
        """Every field, `identity` (the digest) and `recipe` (what from_json reads), for the attributes of a file."""
        return {**asdict(self), "repr_layers": list(self.repr_layers), "include": list(self.include), "identity": self.digest, "recipe": self.as_json()}

    @classmethod
    def from_json(cls, text: str) -> "Identity":
        """The inverse of as_json."""
        fields = json.loads(text)
        fields["repr_layers"] = tuple(fields["repr_layers"])
        fields["include"] = tuple(fields["include"])
        return cls(**fields)


def resolve_layers(wanted: str, layer_count: int) -> Tuple[int, ...]:
    """ "-1" or "0,6,-2" to layers 0..layer_count, rising, each once; negatives count from the end as in esm-extract."""
    try:
        layers = [int(word) for word in wanted.split(",")]
    except ValueError:
        raise BadOption(f"repr_layers {wanted!r} is not a comma separated list of whole numbers") from None
    for layer in layers:
        if not -(layer_count + 1) <= layer <= layer_count:
            raise BadOption(f"repr_layers has {layer}, but the model has layers 0 to {layer_count} (or -1 to -{layer_count + 1})")
    return tuple(sorted({layer % (layer_count + 1) for layer in layers}))


def identity_of(
    weights_sha256: str, layer_count: int, regression: str, repr_layers: str, include: str, compute_dtype: str, long_sequences: str, max_residues: int
) -> Identity:
    """From a weights.json and options as the user gives them. BadOption when a layer is none of the model's."""
    layers, kinds = resolve_layers(repr_layers, layer_count), tuple(sorted(set(include.split(","))))
    limit = 0 if long_sequences == "full" else max_residues
    return Identity(weights_sha256, layers, kinds, compute_dtype, long_sequences, limit, regression_sha256=regression if "contacts" in kinds else "")


def differences(ours: Identity, theirs: Identity) -> List[str]:
    """In words, what sets two identities apart; empty when they are equal."""
    left, right = asdict(ours), asdict(theirs)
    return [f"{name}: {right[name]} instead of {left[name]}" for name in left if left[name] != right[name]]


def chunk_name(digests: Sequence[bytes]) -> str:
    """The name that a chunk owes to its content: chunk_<16 hexadecimal digits> of its sequences' digests, in order."""
    return "chunk_" + hashlib.sha256(b"".join(digests)).hexdigest()[:16]
