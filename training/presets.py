"""Published recipes for training the original, by the name that main_train's ``--preset`` takes."""

from unlearn import preset_row, preset_table
from unlearn.tools.presets import preset

NOT_BUILT = "CutMix, RandAugment, random erasing and the moving average of weights are not built"
TRANSFORMER = {
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "label_smoothing": 0.1,
}
PRESETS = {
    "paper": preset("the reference's: 182 epochs, SGD 0.1, a tenth at 91 and 136"),
    "deit": preset(
        "Touvron et al. (ICML 2021), table 9 and code: ImageNet, 224 pixels, for vit_tiny and"
        f" vit_small; {NOT_BUILT}, nor is repeated augmentation",
        **TRANSFORMER,
        epochs=300,
        batch_size=1024,
        lr=1e-3,
        final_lr=1e-5,
        warmup=5,
        decay="weights",
        mixup=0.8,
        drop_path=0.1,
    ),
    "swin": preset(
        "Liu et al. (ICCV 2021), section 4.1, appendix A2.1 and code: ImageNet, 224 pixels, for"
        f" swin_t; {NOT_BUILT}",
        **TRANSFORMER,
        epochs=300,
        batch_size=1024,
        lr=1e-3,
        final_lr=1e-5,
        warmup=20,
        clip_norm=5.0,
        decay="weights",
        mixup=0.8,
        drop_path=0.2,
    ),
    "convnext": preset(
        "Liu et al. (CVPR 2022), table 5, and code: ImageNet, 224 pixels, for convnext_t;"
        f" {NOT_BUILT}",
        **TRANSFORMER,
        epochs=300,
        batch_size=4096,
        lr=4e-3,
        final_lr=1e-6,
        warmup=20,
        decay="weights",
        mixup=0.8,
        drop_path=0.1,
    ),
    "vit_small_data": preset(
        "the code of Lee et al. (arXiv 2112.13492) for ViT and Swin on CIFAR, SVHN and"
        f" Tiny-ImageNet, whose mixup is of a quarter of the batches; {NOT_BUILT}, nor are"
        " AutoAugment and repeated augmentation",
        **TRANSFORMER,
        epochs=100,
        batch_size=128,
        lr=1e-3,
        warmup=10,
        decay="all",
        mixup=1.0,
        drop_path=0.1,
    ),
    "from_weights": preset(
        "our choice, for training that begins with the weights of a file (--init)",
        optimizer="adamw",
        weight_decay=0.05,
        schedule="cosine",
        epochs=10,
        batch_size=128,
        lr=1e-4,
        warmup=1,
        decay="weights",
    ),
}


def preset_listing() -> str:
    """What ``--preset list`` prints: the presets of main_train before those of methods."""
    head, rule, *rows = preset_table().splitlines()
    training = [preset_row("main_train", name, *each[:2]) for name, each in PRESETS.items()]
    return "\n".join([head, rule, *training, *rows])
