"""What scores a trained model: perplexities, lm-eval, and the metrics.json they write.

Run from anywhere with this folder's parent on the path, as the task's scripts do:

    PYTHONPATH=nanoGPT python -P -m scoring.perplexity
    PYTHONPATH=nanoGPT python -P -m scoring.lm_eval_stage --tasks ...

`-P` keeps the current folder, which the trained code may have written to, off the path.
"""
