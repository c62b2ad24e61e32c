"""From episodes to better policies.

    filters              which trajectories are learned from, and why not the others
    datasets             trajectories -> rows of token ids with a loss mask
    behavior_cloning     rows -> a fine-tuned model or adapter, through TRL and PEFT
    self_reinforcement   rounds of play, filter, training
    tiny                 a small base model made from nothing, for laptops
    settings, presets/   what a run of the whole loop is made of
    plan                 what it will take, before it starts
    pi                   the whole loop in one resumable run: `sotopia-env pi`

filters, settings, plan and pi import without torch; what trains asks for the extra `train` when it is used.
"""
