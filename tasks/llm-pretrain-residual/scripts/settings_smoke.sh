# What every role of profile smoke passes on to the training file's settings: a 0.2M model.
settings=(
  --device=cpu --bfloat16=false --compile=false --vocab_size=4096
  --n_layer=2 --n_head=2 --n_embd=32 --block_size=64
  --global_batch=8 --micro_batch=4 --max_iters=30 --learning_rate=1e-2
  --eval_interval=10 --eval_windows=32 --save_interval=10
)
device=cpu
scoring=(--max-windows 24 --max-passages 16)
lm_eval=(
  --include "$root/tasks/llm-pretrain-residual/evals"
  --tasks agreement,word_order,fitting_word --hidden fitting_word
)
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them, unless
# the script has said it.
: "${max_extra:=1.0}"
# Positions that the audit asks again.
audited=512
