"""The pages, one file each: what a job leaves -> `report.html`, one self-contained file.

Each function returns the path it wrote. Texts and tables are escaped; a section without content is left out.
"""
