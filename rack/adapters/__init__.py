"""Other people's interfaces on Rack's faces. Nothing inside of Rack imports them."""
