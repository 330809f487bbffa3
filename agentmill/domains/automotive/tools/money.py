"""Prices, incentives, financing and trade-ins. Amounts are whole dollars, rates whole percents a year."""

from typing import Literal

from sqlalchemy import or_, select

from agentmill.domains.automotive.catalogue import TERMS
from agentmill.domains.automotive.schema import INCENTIVES, RATES, VEHICLES
from agentmill.domains.automotive.seed import trade_in_value
from agentmill.domains.automotive.tools.inventory import vehicle_of
from agentmill.domains.automotive.world import AutomotiveWorld
from agentmill.domains.base import Json, ToolError, tool

Condition = Literal["excellent", "good", "fair", "poor"]


@tool()
def list_incentives(world: AutomotiveWorld, *, stock: str) -> Json:
    """The best current incentive for a car ("best": its code, or null), and its amount in dollars."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"best": None, "amount": 0}
    query = select(INCENTIVES).where(or_(INCENTIVES.c.make.is_(None), INCENTIVES.c.make == row.make))
    best = world.connection.execute(query.order_by(INCENTIVES.c.amount.desc(), INCENTIVES.c.code)).first()
    return {"best": best.code, "amount": best.amount} if best else {"best": None, "amount": 0}


@tool()
def quote_price(world: AutomotiveWorld, *, stock: str, discount: int = 0, incentive: str | None = None) -> Json:
    """What a car costs with a discount in percent or with an incentive; {"found": false} where there is no such car."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"found": False}
    amount = 0
    if incentive is not None:
        found = world.connection.execute(select(INCENTIVES).where(INCENTIVES.c.code == incentive)).first()
        if found is None or found.make not in (None, row.make):
            raise ToolError(f"there is no incentive {incentive} for {stock}; take one from list_incentives")
        amount = found.amount
    if not 0 <= discount <= world.facts()["limits"]["max_discount"]:
        raise ToolError(f"discount={discount} is more than may be given")
    return {
        "found": True,
        "list": row.price,
        "discount": discount,
        "price": round(row.price * (100 - discount) / 100) - amount,
    }


@tool()
def finance_terms(world: AutomotiveWorld) -> Json:
    """Over how many months cars are financed, and the least down payment in dollars."""
    return {"months": list(TERMS), "min_down_payment": world.facts()["limits"]["min_down_payment"]}


@tool()
def finance_rate(world: AutomotiveWorld, *, score: int, term: int) -> Json:
    """The yearly rate in percent for a credit score; "approved" tells whether there is one. Long terms cost 1 more."""
    query = select(RATES.c.apr).where(RATES.c.min_score <= score).order_by(RATES.c.min_score.desc())
    apr = world.connection.scalar(query.limit(1))
    return {"approved": False} if apr is None else {"approved": True, "apr": apr + (1 if term > 48 else 0)}


@tool()
def finance_quote(world: AutomotiveWorld, *, stock: str, apr: int, term: int, down_payment: int) -> Json:
    """The monthly payment in dollars for a car, with `apr` from finance_rate; {"found": false} where there is none."""
    row = vehicle_of(world, stock)
    if row is None:
        return {"found": False}
    if term not in TERMS:
        raise ToolError(f"term={term} is none of {', '.join(map(str, TERMS))} months")
    rest = max(0, row.price - down_payment)
    monthly_rate = apr / 1200
    monthly = rest * monthly_rate / (1 - (1 + monthly_rate) ** -term)
    return {"found": True, "down": down_payment, "monthly": round(monthly)}


@tool()
def decode_vin(world: AutomotiveWorld, *, vin: str) -> Json:
    """Make, model and year of a car by its vehicle identification number; {"found": false} where it is unknown."""
    row = world.connection.execute(select(VEHICLES).where(VEHICLES.c.vin == vin)).first()
    return {"found": False} if row is None else {"found": True, "make": row.make, "model": row.model, "year": row.year}


@tool()
def estimate_trade_in(
    world: AutomotiveWorld, *, make: str, model: str, year: int, mileage: int, condition: Condition
) -> Json:
    """What the dealership would pay for a used car, from low to high, in dollars. `mileage` is in miles."""
    low, high = trade_in_value(make, model, year, mileage, condition)
    return {"low": low, "high": high}


@tool()
def appraisal_terms(world: AutomotiveWorld) -> Json:
    """Up to which age in years and mileage in miles a car is valued from afar; others are looked at in the house."""
    limits = world.facts()["limits"]
    return {"max_age": limits["max_trade_in_age"], "max_mileage": limits["max_trade_in_mileage"]}


TOOLS = (
    list_incentives, quote_price, finance_terms, finance_rate, finance_quote, decode_vin, estimate_trade_in,
    appraisal_terms,
)  # fmt: skip
