"""Fine-tuning: the weights that a new run begins with, where its classes are not the model's."""

from collections.abc import Mapping, Sequence

from torch import Tensor

TABLES = ("embed_label.weight", "class_embedding.weight", "label.weight")
"""Label tables by their names in a network's state: a row for each class, of all networks but
`conditional` one more for "no label", which there is 0."""


def with_classes(
    weights: Mapping[str, Tensor],
    theirs: Sequence[str],
    own: Mapping[str, Tensor],
    ours: Sequence[str],
) -> tuple[dict[str, Tensor], str]:
    """Return a model's weights with a label table of other classes, and a line on it, or ''.

    weights: of a model of the classes `theirs`. own: the state of the network that is to take them,
    of the classes `ours`. A class that both have, by its name, keeps its row; any other one begins
    as "no label" does. Where one of the two has no labels, the table is left out, or begins at 0.
    """
    table = next((name for name in TABLES if name in weights or name in own), None)
    if table is None or tuple(theirs) == tuple(ours):
        return dict(weights), ""
    taken = {name: value for name, value in weights.items() if name != table}
    if table not in own:
        return taken, "the model to begin with has labels, which are left out here"
    made = own[table].clone().zero_()
    if table not in weights:
        said = f"the model to begin with has no labels: the {len(ours)} classes begin as one"
        return taken | {table: made}, said
    learned = weights[table].to(made)
    if learned.shape[1:] != made.shape[1:]:
        return dict(weights), ""  # another network
    if len(learned) > len(theirs):
        made += learned[-1]  # "no label"
    kept = [name for name in ours if name in theirs]
    for name in kept:
        made[ours.index(name)] = learned[theirs.index(name)]
    said = (
        f"{len(kept)} of {len(ours)} classes are those of the model to begin with, by their names; "
        'the others begin as "no label"'
    )
    return taken | {table: made}, said
