''':'
# Bash reads the line above as the no-op command ":" and stops at exit in ranks.sh; Python reads all of it, down to the closing
# quotes, as one string. Both work:
#   deepspeed --num_accelerators 2 launch/pretrain.sh --config ...   and   bash launch/pretrain.sh --config ...
# (and on SLURM  sbatch launch/pretrain.sbatch --config ...).
# How many ranks, where they meet, how they are stopped: ranks.sh.
source "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"
'''
from pretrain.train import main

main()
