"""What a win rate would be if both replies were equally long.

As AlpacaEval 2 does it (Dubois et al., arXiv:2404.04475): a logistic fit of the win on the
difference of the two lengths, read where that difference is 0.

Shape letters: N prompts.
"""

import numpy as np

from src.evaluation.figures import Columns

FEWEST_WINS = 2  # prompts of which the fit knows both outcomes; below, there is nothing to fit
MOST_STEPS = 100
TOLERANCE = 1e-10


def length_controlled(points: np.ndarray, longer_by: np.ndarray) -> Columns:
    """Return the columns of the win rate at equal length.

    The length enters as tanh of the difference over its standard deviation. Two tied rows are
    added, one for each coefficient, so that there is a fit where length tells every win (log-F(1,1)
    prior; Greenland & Mansournia 2015, doi:10.1002/sim.6537). Rows drawn again count by the
    influence of each on the fit, so no draw needs a fit of its own.

    Args:
        points: (N,) 1 for a win, 1/2 for a tie, 0; nan: not known.
        longer_by: (N,) tokens of the reply less those of the other.

    Returns:
        Columns of the form ``logistic``; none count where nearly all prompts end alike.
    """
    known = ~np.isnan(points)
    values = np.zeros((len(points), 2))
    found = points[known]
    if min((found > 0).sum(), (found < 1).sum()) < FEWEST_WINS or len(set(found)) < 2:
        return Columns(values, form="logistic")
    deviation = longer_by[known].std()
    length = np.tanh(longer_by[known] / deviation) if deviation else np.zeros(len(found))
    features = np.stack([np.ones(len(found)), length], axis=1)
    level, influence = _fit(features, found)
    values[known] = np.stack([level + influence - influence.mean(), np.ones(len(found))], axis=1)
    return Columns(values, form="logistic")


def _fit(features: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the log-odds at length 0, and how far each row moves it times their number (N,)."""
    rows = np.concatenate([features, np.eye(2)])
    targets = np.concatenate([points, [0.5, 0.5]])
    weights = np.zeros(2)
    for _ in range(MOST_STEPS):
        shares = 1 / (1 + np.exp(-rows @ weights))
        curvature = (rows * (shares * (1 - shares))[:, None]).T @ rows
        step = np.linalg.solve(curvature, rows.T @ (targets - shares))
        weights = weights + step * min(1.0, 1 / np.abs(step).max(initial=1e-300))
        if np.abs(step).max() < TOLERANCE:
            break
    scores = features * (targets - shares)[: len(points), None]
    return float(weights[0]), len(points) * scores @ np.linalg.inv(curvature)[0]
