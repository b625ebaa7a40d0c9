"""The figures of a policy that learns from its own replies: sums over tokens, and over replies."""

from collections.abc import Mapping

OF_TOKENS = ("loss", "policy_loss", "value_loss", "approx_kl", "clipped", "entropy", "num_tokens")
OF_REPLIES = ("score", "kl", "length", "ended", "num_replies")
JUDGED = ("gold", "perfect", "right")  # by the embedded labeller; they choose nothing
NAMES = (*OF_TOKENS, *OF_REPLIES, *JUDGED, "num_judged")
TRAIN_FIGURES = ("loss", "policy_loss", "approx_kl", "clip_fraction", "entropy")


def policy_figures(sums: Mapping[str, float], kl_price: float) -> dict[str, float]:
    """Return the figures of learning, means per token, or those of replies, means per reply.

    ``objective`` is the score less what KL costs; ``loss`` of replies is minus that.

    Args:
        sums: by ``NAMES``.
        kl_price: what a nat costs, in units of the score.
    """
    found: dict[str, float] = {}
    if sums["num_tokens"]:
        names = {name: name for name in (*TRAIN_FIGURES, "value_loss")}
        names["clip_fraction"] = "clipped"
        found |= {name: sums[of] / sums["num_tokens"] for name, of in names.items()}
    if sums["num_replies"]:
        names = {"score": "score", "kl": "kl", "reply_tokens": "length", "reply_ended": "ended"}
        found |= {name: sums[of] / sums["num_replies"] for name, of in names.items()}
        objective = found["score"] - kl_price * found["kl"]
        found |= {"objective": objective, "loss": -objective}
    if sums["num_judged"]:
        found |= {name: sums[name] / sums["num_judged"] for name in JUDGED}
    return found
