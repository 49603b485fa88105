# What every role of profile 124m passes on to the training file's settings: GPT-2 small.
settings=(
  --n_layer=12 --n_head=12 --n_embd=768 --micro_batch=64 --max_iters=3400
)
device=cuda
scoring=()
lm_eval=(--bfloat16 --tasks arc_easy,hellaswag,piqa,winogrande --hidden piqa,winogrande)
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them, unless
# the script has said it.
: "${max_extra:=0.35}"
# Positions that the audit asks again.
audited=4096
