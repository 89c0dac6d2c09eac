"""What travels: kits, the pieces that they are cut into, and the calls that carry them."""
