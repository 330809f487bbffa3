"""Quantisation of the finished student and its drafter to 8 bits, and how far activations leave the calibrated range.

llm-compressor writes the weights in the format that vLLM loads; what is ours is which scheme, which rows, what is
measured afterwards, and the clip rate.

    stage         the driver: scheme, rows, the quantised folders, what they cost, figures
    scheme        FP8 or INT8, by hardware unless it is set; the recipe with every observer named
    rows          what is calibrated and judged on
    estimate      what it takes of memory
    work          what happens in a process of its own: calibrate, save, score
    drafter_work  the same of a drafter, for the student in 8 bits
    ranges        the range of each layer's inputs, as a saved folder has it; ranges.json
    clip          the share of activations outside the calibrated range, by layer, agent and position
    bound         what share of them is too much
"""
