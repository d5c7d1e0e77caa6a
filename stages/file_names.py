"""The names of the files that each stage leaves in its folder."""

# Training: the last epoch's state, the model that is kept, what it scores, its curve.
LAST, BEST = "0checkpoint.pth.tar", "0model_SA_best.pth.tar"
TRAIN_RESULT, TRAIN_CURVE = "train_result.json", "0curve.jsonl"
# Masks: with_0.1.pt and so on, and their record.
MASK_RECORD = "mask_result.json"
# Unlearning, after METHOD or NAME.METHOD.
CHECKPOINT, RESULT, CURVE = "checkpoint.pth.tar", "result.json", "curve.jsonl"
REFERENCE_RESULT, FORGOTTEN = "eval_result.pth.tar", "forget.npz"
# Auditing.
AUDIT, PER_IMAGE = "audit.json", "per_image.npz"


def mask_name(ratio: float | str) -> str:
    """The file of a mask: of so large a share of the weights, or of ``layers``."""
    return f"with_{ratio}.pt"
