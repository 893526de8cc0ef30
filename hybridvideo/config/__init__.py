"""Every setting, once: small dataclasses by owner. Plain data becomes them in `parsing`; an unknown key is refused."""
