"""The system M on Ray Serve: one shared vLLM engine, a deployment for each agent, an OpenAI-compatible gateway."""
