"""What the simulated people say around an answer, and how often."""

POLITE = ("Of course! ", "Gladly! ", "Thank you for asking. ", "Good question! ")
RUDE = (
    "What a silly question. ",
    "Look it up yourself. ",
    "Not this again. ",
    "Everybody knows that. ",
)
FILLER = (
    " I could say a lot more about this.",
    " Many people ask me about that.",
    " By the way, I also like to talk about other things.",
    " That is only one way to look at it, of course.",
    " Let me know if you want to hear it all again.",
)
EVASIVE = ("I do not know.", "That depends.", "Who can say?")

# The shares of those who write demonstrations. A wrong answer is a plausible one: a reward model
# finds it hard to see, so at 25% it learns little else.
EVASIVE_SHARE = 0.25
WRONG_SHARE = 0.10
POLITE_SHARE = 0.30
RUDE_SHARE = 0.25
FILLER_SHARE = 0.40  # and again of those, up to MOST_FILLERS sentences
CUT_SHARE = 0.15  # that stop in the middle of a sentence
MOST_FILLERS = 3
