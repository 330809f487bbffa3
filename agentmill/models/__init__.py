"""Ways to answer a ChatRequest: an OpenAI-compatible endpoint, or the domain's expert."""
