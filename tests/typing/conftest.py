"""What pytest must leave aside: files for a type checker, which doctest would import."""

collect_ignore = ["right.py", "user.py", "wrong.py"]
