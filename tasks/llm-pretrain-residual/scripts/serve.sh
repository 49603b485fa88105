# The role `serve` of every stage: the model server, on the first of the stage's GPUs.
export CUDA_VISIBLE_DEVICES=${gpus[0]:-}
exec python -P "$root/nanoGPT/model_server.py" -- "${settings[@]}" "$@"
