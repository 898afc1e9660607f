''':'
# Bash reads the line above as the no-op command ":" and stops at exec; Python reads all of it, down to the closing quotes, as one string.
# So both work:  deepspeed --num_accelerators 2 launch/pretrain.sh --config ...   and   bash launch/pretrain.sh --config ...
# NUM_RANKS: ranks on this machine when started by bash (default: one for each GPU, or 2 without a GPU).
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -d "$project/.venv/bin" ] && PATH="$project/.venv/bin:$PATH"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
exec deepspeed --log_level error --num_accelerators "${NUM_RANKS:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)}" "$0" "$@"
'''
from pretrain.train import main

main()
