"""What happened: recordings read from files, and the programs lifted out of them."""
