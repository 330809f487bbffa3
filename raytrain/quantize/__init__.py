"""Quantisation of the finished student to 8 bits, and how far its activations leave the range that was calibrated.

llm-compressor writes the weights in the format that vLLM loads; what is ours is which scheme, which rows, what is
measured afterwards, and the clip rate.

    stage    the driver: scheme and calibration set, the quantised folder, its held-out loss, figures
    scheme   FP8 or INT8, by hardware unless it is set; the recipe with every observer named
    work     what happens in a process of its own: calibrate, save, score
    ranges   the range of each layer's inputs, as a saved folder has it; ranges.json
    clip     the share of activations outside the calibrated range, by layer, agent and position
"""
