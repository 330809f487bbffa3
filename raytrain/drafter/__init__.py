"""EAGLE-3 drafters (arXiv 2503.01840): a small model that guesses the student's next tokens from its hidden states.

Model, losses and file format are speculators'; training them is the worker module of every other stage.

    stage        the driver: a drafter's vocabulary, its folder before training, the contract with the engine, figures
    model        a drafter made for a student, and read again
    copying      what its layer does before it is trained
    states       what it sees: hidden states of chosen layers of the frozen student, computed online
    sources      where a worker gets them from: online, or streamed from an engine
    extractor    engines beside the workers that compute them, for a student that no worker can hold
    watch        how an engine's own process sees them
    attention    its attention on the CPU, document by document
    training     the trainer, and the early stop
    acceptance   how many drafted tokens the student would accept, computed from one forward pass
    contract     whether the serving engine takes it
"""
