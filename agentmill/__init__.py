"""agentmill: the multi-agent system M and the contracts that every stage shares. Imports no Ray, torch or vLLM."""

__version__ = "0.1.0"
