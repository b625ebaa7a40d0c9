"""The share of right answers, and the share that a look-up in the training data would get right.

Exact match counts the answers that equal the reference, letter for letter. A model that has learnt
something must be well above `nearest_neighbour`, which answers every prompt with the response to
the most similar training prompt.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import numpy as np


def matches(answer: str, reference: str) -> bool:
    """Whether an answer equals its reference; white space at the ends of a text does not count."""
    return answer.strip() == reference.strip()


def exact_match(
    answers: Sequence[str], references: Sequence[str], labels: Sequence[Collection[str]]
) -> dict[str, float]:
    """Return the share of answers equal to their reference: over all, and for each label.

    An answer may have several labels, or none. An example of what is returned is
    {"exact_match": 0.75, "exact_match/addition": 0.5}. Raises ValueError for unequal lengths or
    when there is nothing to score.
    """
    if not answers:
        raise ValueError("exact match needs at least one answer")
    hits = [matches(a, r) for a, r in zip(answers, references, strict=True)]
    by_label: dict[str, list[bool]] = defaultdict(list)
    for hit, names in zip(hits, labels, strict=True):
        for name in names:
            by_label[name].append(hit)
    return {
        "exact_match": sum(hits) / len(hits),
        **{
            f"exact_match/{name}": sum(by_label[name]) / len(by_label[name])
            for name in sorted(by_label)
        },
    }


def nearest_neighbour(
    train_prompts: Sequence[str], train_responses: Sequence[str], prompts: Sequence[str]
) -> list[str]:
    """Return for each prompt the response to the most similar training prompt, the first of equals.

    Similarity is the cosine of TF-IDF vectors over words (Salton & Buckley, 1988: term weighting
    in automatic text retrieval). On the embedded corpus, words retrieve better than pairs of words
    or character n-grams. Raises ValueError when there are no training prompts, or not one response
    for each.
    """
    if not train_prompts or len(train_prompts) != len(train_responses):
        raise ValueError(
            f"{len(train_prompts)} training prompts and {len(train_responses)} responses: "
            "there must be one response for each prompt, and at least one"
        )
    train_terms = [Counter(_terms(prompt)) for prompt in train_prompts]
    postings = _postings(train_terms)
    num_train = len(train_prompts)
    idf = {
        term: np.log((1 + num_train) / (1 + len(ids))) + 1 for term, (ids, _) in postings.items()
    }
    norms = np.zeros(num_train)
    for term, (ids, counts) in postings.items():
        norms[ids] += (counts * idf[term]) ** 2
    norms = np.sqrt(np.maximum(norms, 1e-12))

    nearest = []
    for prompt in prompts:
        # The norm of the prompt's vector does not change the order of the similarities.
        scores = np.zeros(num_train)
        for term, count in Counter(_terms(prompt)).items():
            if term in postings:
                ids, counts = postings[term]
                scores[ids] += count * counts * idf[term] ** 2
        nearest.append(train_responses[int(np.argmax(scores / norms))])
    return nearest


def _terms(text: str) -> list[str]:
    """Return the words, numbers and signs of a text, in lower case, without punctuation."""
    return re.findall(r"\w+|[^\w\s.,:;!?'\"]", text.lower().replace("'", ""))


def _postings(documents: Sequence[Counter[str]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each term the documents that hold it, and its counts there."""
    lists: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, terms in enumerate(documents):
        for term, count in terms.items():
            lists[term].append((index, count))
    arrays = {term: np.array(pairs) for term, pairs in lists.items()}
    return {term: (pairs[:, 0], pairs[:, 1]) for term, pairs in arrays.items()}
