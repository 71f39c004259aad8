def render(document, evidence, *, counts, read):
    return ""
