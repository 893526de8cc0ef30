"""The order of classes in foreign weights that do not use the alphabetical one used here.

A classifier's rows are numbered as its code base numbers the classes. Loaded unchanged, such weights assign the right
score to the wrong name, and nothing looks broken but the accuracy. So the rows are reordered when they are loaded.

An order is stored as numbers alone: at place i, the number that the weights have for class i of the alphabetical list
`hybridvideo/data/labels/kinetics400.txt`. It is checked, and made for other weights, with the list of names that their
authors publish with them:

    permutation(their_names, our_names) == UNIFORMER_KINETICS400
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from hybridvideo.errors import UserError, nearest

# UniFormer's videos of Kinetics-400: its class 0 is "riding a bike", its class 341 "abseiling".
UNIFORMER = """
341 158 189 16 398 302 202 318 80 323 249 315 18 88 365 52 257 103 113 162 75 338 388 352 308 125 159 82 10 44 92 396
185 258 383 178 71 260 15 335 192 326 58 133 172 120 334 280 306 101 337 173 203 356 4 209 332 7 65 115 95 81 232 344
303 201 342 351 165 397 252 368 285 244 363 355 79 268 110 343 72 219 321 208 345 340 84 61 206 188 62 55 29 237 2 286
245 90 8 372 325 380 226 274 346 354 97 28 246 194 212 26 281 147 215 264 30 14 301 275 66 265 224 104 121 357 117 54
107 279 109 122 289 78 59 241 179 291 349 142 152 220 311 386 145 239 392 99 266 100 176 314 167 64 160 216 49 207 222
184 171 22 234 148 339 218 294 324 233 262 9 377 41 390 53 150 361 73 247 96 60 364 298 70 395 143 236 336 196 385 33
144 1 307 393 256 263 375 235 273 243 106 366 271 186 287 51 299 175 276 369 57 11 373 35 163 297 195 399 290 382 319
134 40 310 223 151 270 3 387 137 31 309 217 17 374 190 277 327 135 394 50 284 177 67 379 141 353 108 37 136 197 272 21
312 213 164 182 250 91 89 253 199 333 248 63 119 0 130 102 32 227 362 296 23 47 156 180 183 313 5 350 389 328 112 93
378 359 83 282 174 371 48 360 24 376 68 42 221 140 181 118 116 381 94 77 27 45 87 230 292 76 39 169 131 19 126 367 105
114 193 210 305 149 98 259 200 12 320 254 146 278 242 261 36 293 251 214 25 304 204 157 255 111 229 283 128 161 170 86
74 138 6 198 384 187 155 348 154 166 124 205 132 13 34 225 43 347 228 358 38 127 231 316 269 288 139 168 46 238 317 69
211 123 391 330 295 322 329 129 240 153 267 85 300 20 191 56 370 331
"""
UNIFORMER_KINETICS400 = tuple(map(int, UNIFORMER.split()))


def permutation(from_names: Sequence[str], to_names: Sequence[str]) -> tuple[int, ...]:
    """Return for each of `to_names` its place in `from_names`: `rows[list(order)]` reorders rows from one to the other.

    Names that differ only in case, spaces, underscores, quotes, brackets and hyphens are the same. UserError if a name
    is missing from one side or appears twice.
    """
    sources = {plain(name): place for place, name in enumerate(from_names)}
    for names in (from_names, to_names):
        name, count = Counter(map(plain, names)).most_common(1)[0] if names else ("", 0)
        if count > 1:
            raise UserError(f"class name {name!r} appears {count} times in one list; give each class one name")
    for name in to_names:
        if plain(name) not in sources:
            raise UserError(f"class {name!r} is missing from the other list{nearest(plain(name), sources)}")
    if len(from_names) != len(to_names):
        raise UserError(f"one list has {len(from_names)} classes, the other {len(to_names)}; give the same classes")
    return tuple(sources[plain(name)] for name in to_names)


def inverse(order: Sequence[int]) -> tuple[int, ...]:
    """Return the order that undoes `order`."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def plain(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return " ".join(re.sub(r"[\s_()-]+", " ", re.sub("[\"'`’]", "", name.casefold())).split())
