''':'
# Bash reads the line above as the no-op command ":" and stops at exit in ranks.sh; Python reads all of it, down to the closing
# quotes, as one string. Both work:
#   deepspeed --num_accelerators 2 launch/finetune.sh --task ...   and   bash launch/finetune.sh --task ...
# (and srun or mpirun, with MASTER_ADDR and MASTER_PORT, python launch/finetune.sh --task ...). One rank is finetune/run.py itself.
# Plain data parallelism (torch DDP): ZeRO would spare memory that models of this size do not lack.
# How many ranks, where they meet, how they are stopped: ranks.sh.
source "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"
'''
from finetune.run import main

main()
