"""What files record of a recipe, and how two records compare."""

from collections.abc import Sequence

from datasets.splits import VALIDATION_SHARE
from recipe import Recipe
from unlearn.base import Iterative, Method


def unrecorded(identity: dict) -> dict:
    """What a run did whose record is older than the flags that say so."""
    select = "best" if "train_seed" in identity else "last"
    return {
        "tail": "keep",
        "final_lr": 0.0,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "optimizer": "sgd",
        "select": select,
        "forget_batch_size": identity.get("batch_size"),
        "pull": 0.0,
        "forget_optimizer": "same",
        "forget_lr": 0.0,
        "project_every": 1,
        "contrast": 0.0,
        "contrast_temperature": 0.1,
        "decay": "all",
        "init": "",
        "drop_path": "own",
        "resized_crop": False,
        "val_fraction": VALIDATION_SHARE,
    }


def completed(recipes: Sequence[dict]) -> list[dict]:
    """``recipes`` with what older versions did not record: the value that all others have, else
    what a run did then.

    So an entry that is absent does not by itself set two recipes apart, and likeness stays
    transitive.
    """
    known = {name: [each[name] for each in recipes if name in each] for name in unrecorded({})}
    known = {name: values for name, values in known.items() if values}
    alike = {name for name, values in known.items() if values.count(values[0]) == len(values)}
    found = []
    for recipe in recipes:
        absent = {name: then for name, then in unrecorded(recipe).items() if name not in recipe}
        agreed = {
            name: known[name][0] if name in alike else then
            for name, then in absent.items()
            if name in known
        }
        found.append({**recipe, **agreed})
    return found


def differences(recipe: dict, original: dict) -> str:
    """In words, where a Retrain's ``recipe`` is another than the original's, both as results record
    them; empty where it is not.

    What one of them does not record is not compared; milestones move with the epochs and are
    compared where those are equal.
    """
    apart = [name for name in original if name in recipe and recipe[name] != original[name]]
    if "unlearn_epochs" in apart and "milestones" in apart:
        apart.remove("milestones")
    return ", ".join(f"{name} {recipe[name]} (original {original[name]})" for name in apart)


def recorded_recipe(method: Method, recipe: Recipe) -> dict[str, object]:
    """What a file says of a recipe: nothing where there is no loop."""
    return recipe.record() if isinstance(method, Iterative) else {}
