"""Word lists for English reasoning traces. For another language write another such module."""

# SEAL (arXiv 2504.07986), its published word lists; "again" is SkipKV's (arXiv 2512.07993), and
# "double-check" stands beside SEAL's "let me check".
REFLECTION = (
    "wait", "verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect",
    "let me check", "double-check", "double check", "seems right", "again",
)  # fmt: skip

TRANSITION = (
    "alternatively", "think differently", "another way", "another approach", "another method",
    "another solution", "another strategy", "another technique",
)  # fmt: skip

# Words that say how a sentence goes on, or hold it together: a sentence without them says the same.
CONNECTIVES = frozenset(
    {
        "a", "actually", "ah", "also", "an", "and", "anew", "but", "finally", "first", "hence",
        "hm", "hmm", "i", "is", "it", "just", "let", "let's", "me", "next", "now", "of", "oh",
        "ok", "okay", "once", "more", "so", "that", "the", "then", "therefore", "this", "thus",
        "to", "us", "was", "we", "well", "yes",
    }
)  # fmt: skip

# They turn what a sentence says into its opposite.
NEGATIONS = frozenset({"cannot", "never", "not"})

# Written with a period that ends no sentence. Left out on purpose, because as words they often end
# one: no., max., min., in., iff.
ABBREVIATIONS = frozenset(
    {
        # argument and reference
        "i.e", "e.g", "cf", "viz", "vs", "etc", "resp", "approx", "ca", "al", "ibid", "w.l.o.g",
        "wlog", "w.r.t", "s.t", "a.k.a", "nb", "n.b",
        # parts of a text
        "eq", "eqs", "eqn", "eqns", "fig", "figs", "tab", "sec", "ch", "chap", "pp", "vol", "ed",
        "thm", "lem", "cor", "def", "defn", "prop", "ex", "rem", "hyp", "ineq", "const", "coeff",
        # names, and the units of word problems
        "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "u.s", "a.m", "p.m", "hr", "hrs", "mins",
        "secs", "ft", "lb", "lbs", "oz", "yd", "yds", "mi", "sq", "cu", "avg", "est",
    }
)  # fmt: skip

# With a capital after an abbreviation or an ellipsis, these start a sentence:
# "x, y, etc. Then", "Hmm... Wait". No word that also names something ("Fig. A", "Thm. I").
SENTENCE_STARTERS = frozenset(
    {
        "actually", "again", "also", "alternatively", "and", "because", "but", "by", "check",
        "each", "finally", "first", "for", "given", "hence", "hmm", "how", "however", "if",
        "is", "it", "let", "maybe", "moreover", "next", "now", "ok", "okay", "otherwise",
        "perhaps", "she", "he", "they", "similarly", "since", "so", "suppose", "that", "the",
        "then", "there", "therefore", "these", "this", "those", "thus", "to", "wait", "we",
        "what", "when", "where", "which", "yes",
    }
)  # fmt: skip
