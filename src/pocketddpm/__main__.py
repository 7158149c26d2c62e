"""`python -m pocketddpm`, which `torchrun -m pocketddpm` needs."""

from pocketddpm.commands.main import main

if __name__ == "__main__":
    main()
