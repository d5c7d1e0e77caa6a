"""BatchNorm in training: batches too small for its statistics, and several processes."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

from datasets.loaders import Data, Loader
from runtime import distributed
from unlearn.base import Iterative
from utils import UserError, warn

BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Batches of fewer images than these are worth a warning.
FEW_IMAGES = 8


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The model's BatchNorm layers of every kind."""
    return [module for module in model.modules() if isinstance(module, BATCH_NORM)]


def unsynchronized_statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics that each rank updates from its own images, unlike SyncBatchNorm's."""
    statistics = []
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.training:
            statistics += [module.running_mean, module.running_var]
    return [value for value in statistics if value is not None]


def check_batch_norm(model: nn.Module, method: Iterative, data: Data) -> bool:
    """Whether BatchNorm in training will meet a batch of one image, which
    :func:`one_image_by_running_statistics` is for; says so.

    Raises:
        UserError: every batch of a loader has one image, or one is too small for the processes of
            the run.
    """
    loaders = method.loaders(data)
    for loader in loaders:
        loader.check_parts()
    if method.bn == "freeze" and not batch_norms(model):
        print("--bn freeze: this architecture has no BatchNorm, so nothing is frozen", flush=True)
    if method.bn == "freeze" or not batch_norms(model):
        return False
    # On the CPU each rank normalises its own images; elsewhere SyncBatchNorm takes all ranks'.
    ranks = distributed.world_size() if data.device.type == "cpu" else 1
    smallest = {}
    for loader in loaders:
        sizes = [(end - start) // ranks for start, end in loader.bounds()]
        if max(sizes, default=2) == 1 and (loader.num_samples > ranks or not method.needs_original):
            raise UserError(_refusal(loader, data, ranks))
        smallest[loader.name] = min(sizes, default=FEW_IMAGES)
    for name, size in smallest.items():
        if size == 1:
            print(
                f"BatchNorm uses its running statistics on batches of one {name} image", flush=True
            )
        elif size < FEW_IMAGES:
            warn(
                f"BatchNorm in training takes its statistics from batches of {size} {name} images;"
                " --bn freeze keeps the model's"
            )
    return 1 in smallest.values()


def _refusal(loader: Loader, data: Data, ranks: int) -> str:
    each = f" in each of {ranks} processes" if ranks > 1 else ""
    remedy = f"{loader.num_samples} {loader.name} images are too few"
    if loader.batch_size < 2 * ranks:
        own = loader.name == "forget" and loader.batch_size != data.retain.batch_size
        flag = "--forget_batch_size" if own else "--batch_size"
        remedy = f"{flag} {loader.batch_size} is too small"
    return f"BatchNorm cannot train on one image{each}: {remedy}; --bn freeze keeps its statistics"


@contextlib.contextmanager
def one_image_by_running_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block BatchNorm in training normalises a batch of one image by its running
    statistics, and leaves them as they are.

    One image has no statistics of a batch: its own cancel what tells it from others.
    """
    switched = set()

    def before(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if norm.training and len(inputs[0]) == 1:
            switched.add(norm)
            norm.eval()

    def after(norm: nn.Module, *unused: object) -> None:
        if norm in switched:
            switched.remove(norm)
            norm.train()

    hooks = []
    for norm in batch_norms(model):
        hooks += [norm.register_forward_pre_hook(before), norm.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
