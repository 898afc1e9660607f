''':'
# Bash and Python both read this file. For bash the line above is the command ":", which does nothing, and bash stops at `exit` in
# ranks.sh. For Python everything down to the closing quotes is one string. Both of these work:
#   deepspeed --num_accelerators 2 launch/finetune.sh --task ...   and   bash launch/finetune.sh --task ...
# (and, by srun or mpirun with MASTER_ADDR and MASTER_PORT, python launch/finetune.sh --task ...). For one rank call
# finetune/run.py. Ranks are plainly data-parallel (torch DDP): models of this size do not need the memory that ZeRO saves. See
# ranks.sh for how many ranks there are, where they meet, and how they are stopped.
source "$(dirname "${BASH_SOURCE[0]}")/ranks.sh"
'''
from finetune.run import main

main()
