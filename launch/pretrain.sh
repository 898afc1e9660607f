''':'
# Bash and Python both read this file. For bash the line above is the command ":", which does nothing, and bash stops at `exit` in
# ranks.sh. For Python everything down to the closing quotes is one string. Both of these work:
#   deepspeed --num_accelerators 2 launch/pretrain.sh --config ...   and   bash launch/pretrain.sh --config ...
# (and on SLURM  sbatch launch/pretrain.sbatch --config ...).
# See ranks.sh for how many ranks there are, where they meet, and how they are stopped.
source "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"
'''
from pretrain.train import main

main()
