"""`python -m jobd.ctl` is jobctl."""

from jobd.ctl import main

if __name__ == "__main__":
    main()
