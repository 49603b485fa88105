# What every role of profile tiny passes on to the training file's settings: a 1.3M model.
settings=(
  --device=cpu --bfloat16=false --compile=false --vocab_size=4096
  --n_layer=4 --n_head=4 --n_embd=128 --block_size=128
  --global_batch=8 --micro_batch=8 --max_iters=200 --learning_rate=3e-3
  --eval_interval=100 --eval_windows=96 --save_interval=100
)
device=cpu
scoring=(--max-windows 200)
lm_eval=(
  --include "$root/tasks/llm-pretrain-residual/evals"
  --tasks agreement,word_order,fitting_word --hidden fitting_word
)
# Parameters and buffers that a model may hold besides the unedited one's, as a share of them, unless
# the script has said it.
: "${max_extra:=1.0}"
# Positions that the audit asks again.
audited=512
