"""What domain packs share: the generic half of an expert, prompts, grounding, documents and rules.

A pack gives its tables (entities, intents, tools, rules) and a `Policy`, the functions that know its trade; the kit
makes a ChatModel of them that answers for every agent, for the customer and for the judge. Nothing here knows a trade.
"""
