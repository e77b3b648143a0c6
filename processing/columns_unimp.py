"""The one place where columns of the two tables are named."""


class Columns:
    """Column names of the `items` and `interactions` tables (see README, "Your own catalogue")."""

    USER_ID = "user_id"
    ITEM_ID = "item_id"
    TIMESTAMP = "timestamp"
    IMAGE = "image"
    RATING = "rating"
    EXPLANATION = "explanation"
    QUERY = "query"
    BEHAVIOR = "behavior"

    # Everything an event may carry besides who, what and when.
    EVENT_OPTIONAL = (RATING, EXPLANATION, QUERY, BEHAVIOR)
    INTERACTIONS_REQUIRED = (USER_ID, ITEM_ID, TIMESTAMP)
