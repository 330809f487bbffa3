"""The goals that customers have over everything that the dealership does, on top of the core ones.

Some ask for two things in one utterance, some change their mind when something is proposed, some want more than a
limit allows and take what is possible. Goals of one scenario never touch the same booking or slot, so that each can be
reached whatever the order.
"""

import random
from collections.abc import Callable

from agentmill.domains.automotive.catalogue import DAYS, PLACES, SERVICES, TERMS
from agentmill.domains.automotive.goals import TASKS, CoreGoals, called, fits, information
from agentmill.domains.automotive.seed import (
    REFERENCE_YEAR,
    Booking,
    Order,
    Vehicle,
    WorldData,
    phone_number,
    plate_number,
    trade_in_value,
    workshop_times,
)
from agentmill.domains.base import Goal, Json

ALL_TASKS = {
    **TASKS,
    "compare_vehicles": 2,
    "check_availability": 2,
    "reserve_vehicle": 3,
    "price_offer": 3,
    "finance_quote": 4,
    "move_test_drive": 3,
    "book_service": 4,
    "cancel_service": 2,
    "order_status": 3,
    "move_delivery": 2,
    "directions": 2,
    "leave_contact": 2,
    "talk_to_person": 1,
}
_PAIR_SHARE, _REFUSAL_SHARE, _CHANGED_MIND, _REFUSED_WISH = 0.2, 0.12, 0.15, 0.2
_OVER_LIMIT, _KNOWN_NUMBER, _GONE_CAR = 0.15, 0.25, 0.2


class AllGoals(CoreGoals):
    """See the module."""

    tasks = ALL_TASKS

    def __init__(self, rng: random.Random, data: WorldData) -> None:
        super().__init__(rng, data)
        valid = {person.name: person for person in data.customers if person.valid}
        self.order: Order = rng.choice([order for order in data.business.orders if order.name in valid])
        self.customer = valid[self.order.name]
        self.phone = self._new_phone()

    def draw(self) -> list[Goal]:
        """The goals as in the core, sometimes opened by two requests at once or joined by one that is refused."""
        goals = super().draw()
        if self.rng.random() < _PAIR_SHARE:
            pair = self._pair()
            goals = [pair, *(goal for goal in goals[:1] if goal.intent not in (pair.intent, *pair.also))]
        if self.rng.random() < _REFUSAL_SHARE:
            intent = self.rng.choice(("private_data", "unsafe"))
            values = {"stock": self.vehicle.stock, "reference": self.rng.choice(self.data.bookings).reference}
            goals.insert(self.rng.randrange(len(goals) + 1), Goal(intent=intent, slots=values, expect={}))
        return goals

    def _pair(self) -> Goal:
        pairs: tuple[Callable[[], Goal], ...] = (
            self._found_and_driven, self._valued_and_financed, self._there_and_described, self._described_and_priced,
            self._there_and_driven, self._booked_and_open, self._ordered_and_open, self._open_and_reached,
        )  # fmt: skip
        return self.rng.choice(pairs)()

    def _new_phone(self) -> str:
        known = {phone for phone, _ in self.data.business.leads}
        while (phone := phone_number(self.rng)) in known:
            pass
        return phone

    def _other_car(self) -> Vehicle:
        return self.rng.choice([car for car in self.cars if car.stock != self.vehicle.stock])

    def _driver(self, valid: bool) -> dict[str, str]:
        """The customer with their own licence, or with somebody else's."""
        other = self.rng.choice([person for person in self.data.customers if person.name != self.customer.name])
        return {"name": self.customer.name, "licence": (self.customer if valid else other).licence}

    def _compare_vehicles(self) -> Goal:
        other = self._other_car()
        slots = {"stock": self.vehicle.stock, "other_stock": other.stock}
        return information("compare_vehicles", "compare_vehicles", slots)

    def _any_car(self) -> Vehicle:
        """A car that may be reserved or sold."""
        gone = [car for car in self.data.vehicles if car.status != "available"]
        return self.rng.choice(gone) if self.rng.random() < _GONE_CAR else self.vehicle

    def _check_availability(self) -> Goal:
        return information("check_availability", "check_availability", {"stock": self._any_car().stock})

    def _reserve_vehicle(self) -> Goal:
        car = self._any_car()
        slots = {"stock": car.stock, "name": self.customer.name, "phone": self.phone}
        if car.status != "available":
            expect = called(("check_availability", {"stock": car.stock}))
            return Goal(intent="reserve_vehicle", slots=slots, expect=expect)
        return Goal(intent="reserve_vehicle", slots=slots, expect={"reservation": slots})

    def _price_offer(self) -> Goal:
        stock = self.vehicle.stock
        if self.rng.random() < 0.5:
            return Goal(intent="price_offer", slots={"stock": stock}, expect=called(self._best_quote(self.vehicle)))
        asked, limit = self.rng.randint(1, 15), self.data.business.limits["max_discount"]
        quote = {"stock": stock, "discount": min(asked, limit)}
        slots = {"stock": stock, "discount": asked}
        return Goal(intent="price_offer", slots=slots, expect=called(("quote_price", quote)))

    def _best_quote(self, car: Vehicle) -> tuple[str, Json]:
        offers = [row for row in self.data.business.incentives if row.make in (None, car.make)]
        best = min(offers, key=lambda row: (-row.amount, row.code))
        return "quote_price", {"stock": car.stock, "incentive": best.code}

    def _rate(self, score: int, term: int) -> int | None:
        apr = next((apr for least, apr in self.data.business.rates if score >= least), None)
        return None if apr is None else apr + (1 if term > 48 else 0)

    def _finance_quote(self) -> Goal:
        least = self.data.business.limits["min_down_payment"]
        score = self.rng.randint(605, 830) if self.rng.random() > 0.1 else self.rng.randint(420, 595)
        wish = {"term": self.rng.choice(TERMS), "down_payment": least + self.rng.randint(0, 12) * 500}
        slots: Json = {"stock": self.vehicle.stock, "score": score, **wish}
        if self.rng.random() < _OVER_LIMIT:
            slots |= {"term": self.rng.choice((12, 30, 84, 96)), "else_term": wish["term"]}
        elif least > 500 and self.rng.random() < _OVER_LIMIT:
            slots |= {"down_payment": least - 500, "else_down_payment": wish["down_payment"]}
        apr = self._rate(score, wish["term"])
        if apr is None:
            expect = called(("finance_rate", {"score": score, "term": wish["term"]}))
            return Goal(intent="finance_quote", slots=slots, expect=expect)
        quote = {"stock": self.vehicle.stock, "apr": apr, **wish}
        return Goal(intent="finance_quote", slots=slots, expect=called(("finance_quote", quote)))

    def _value_trade_in(self) -> Goal:
        slots, limits = self._own_car(), self.data.business.limits
        if self.rng.random() < _OVER_LIMIT:
            if self.rng.random() < 0.5:
                slots["year"] = REFERENCE_YEAR - limits["max_trade_in_age"] - self.rng.randint(1, 6)
            else:
                slots["mileage"] = limits["max_trade_in_mileage"] + self.rng.randint(1, 60) * 1000
            return Goal(intent="value_trade_in", slots=slots, expect=called(("appraisal_terms", {})))
        if self.rng.random() < _KNOWN_NUMBER:
            car = self.rng.choice([car for car in self.data.vehicles if car.status == "sold"])
            told = {name: slots[name] for name in ("mileage", "condition")}
            value = {"make": car.make, "model": car.model, "year": car.year, **told}
            return Goal(
                intent="value_trade_in", slots={**told, "vin": car.vin}, expect=called(("estimate_trade_in", value))
            )
        return information("value_trade_in", "estimate_trade_in", slots)

    def _book_test_drive(self) -> Goal:
        goal = super()._book_test_drive()
        slots, expect = dict(goal.slots), dict(goal.expect)
        if "booking" in expect and not any(name.startswith("else_") for name in slots):
            free = [time for time in self._free_times(slots["day"]) if time != slots["time"]]
            if free and self.rng.random() < _CHANGED_MIND:
                slots["mind_time"] = self.rng.choice(free)
                expect["booking"] = {**expect["booking"], "time": slots["mind_time"]}
        return Goal(intent=goal.intent, slots=slots, expect=expect)

    def _move_test_drive(self) -> Goal:
        self.booking = self._other_booking()
        kept, self.vehicle = self.vehicle, next(car for car in self.cars if car.stock == self.booking.stock)
        wish = self._free_slot()
        self.vehicle = kept if kept.stock != self.booking.stock else self._other_car()
        slots = {"reference": self.booking.reference, **wish}
        return Goal(intent="move_test_drive", slots=slots, expect={"moved": slots})

    def _other_booking(self) -> Booking:
        """A booking of a car that no other goal of the scenario is about."""
        others = [
            row
            for row in self.bookings
            if row.stock != self.vehicle.stock and row.reference not in {*self.apart, self.booking.reference}
        ]
        found = self.rng.choice(others)
        self.apart.add(found.reference)
        return found

    def _cancel_test_drive(self) -> Goal:
        self.booking = self._other_booking()
        reference = self.booking.reference
        return Goal(intent="cancel_test_drive", slots={"reference": reference}, expect={"cancelled": reference})

    def _workshop_slots(self) -> list[tuple[str, str]]:
        taken = {(visit.day, visit.time) for visit in self.data.business.visits}
        slots = [(row.day, time) for row in self.data.hours for time in workshop_times(row)]
        return [slot for slot in slots if slot not in taken]

    def _book_service(self) -> Goal:
        day, time = self.rng.choice(self._workshop_slots())
        car = {"service": self.rng.choice(SERVICES), "plate": plate_number(self.rng), "name": self.customer.name}
        slots: Json = {**car, "day": day, "time": time}
        expect = {"visit": dict(slots)}
        draw = self.rng.random()
        if draw < _REFUSED_WISH:
            taken = self.rng.choice(self.data.business.visits)
            weekend = {"day": self.rng.choice(DAYS[5:]), "time": time}
            slots |= {"day": taken.day, "time": taken.time} if draw < _REFUSED_WISH / 2 else weekend
            slots |= {"else_day": day, "else_time": time}
        elif draw < _REFUSED_WISH + _CHANGED_MIND:
            slots["mind_day"], slots["mind_time"] = self.rng.choice(self._workshop_slots())
            expect["visit"] |= {"day": slots["mind_day"], "time": slots["mind_time"]}
        return Goal(intent="book_service", slots=slots, expect=expect)

    def _cancel_service(self) -> Goal:
        reference = self.rng.choice(self.data.business.visits).reference
        return Goal(intent="cancel_service", slots={"reference": reference}, expect={"visit_cancelled": reference})

    def _order_status(self) -> Goal:
        return information("order_status", "find_order", {"order": self.order.number, "name": self.order.name})

    def _move_delivery(self) -> Goal:
        order = self.order
        open_days = [row.day for row in self.data.hours if row.opens is not None]
        closed = [day for day in DAYS if day not in open_days]
        day = self.rng.choice(open_days)
        slots = {"order": order.number, "name": order.name, "day": day}
        if order.status == "delivered":
            asked = {"order": order.number, "name": order.name}
            return Goal(intent="move_delivery", slots=slots, expect=called(("find_order", asked)))
        if closed and self.rng.random() < _REFUSED_WISH:
            slots |= {"day": closed[0], "else_day": day}
        expect = {"delivery": {"number": order.number, "day": day}}
        return Goal(intent="move_delivery", slots=slots, expect=expect)

    def _directions(self) -> Goal:
        return information("directions", "directions", {"place": self.rng.choice(PLACES)})

    def _leave_contact(self) -> Goal:
        if self.rng.random() < 0.1:
            phone = self.rng.choice(self.data.business.leads)[0]
            slots = {"name": self.customer.name, "phone": phone}
            return Goal(intent="leave_contact", slots=slots, expect=called(("find_lead", {"phone": phone})))
        slots = {"name": self.customer.name, "phone": self.phone}
        return Goal(intent="leave_contact", slots=slots, expect={"lead": slots})

    def _talk_to_person(self) -> Goal:
        return Goal(intent="talk_to_person", slots={}, expect=called(("hand_off", {})))

    def _found_and_driven(self) -> Goal:
        wish = {"body": self.vehicle.body, "fuel": self.vehicle.fuel}
        found = [car for car in self.cars if fits(car, wish)]
        self.vehicle = min(found, key=lambda car: (-car.year, car.price, car.stock))
        person = {"name": self.customer.name, "licence": self.customer.licence}
        slot = self._free_slot()
        booking = {"stock": self.vehicle.stock, **slot, **person}
        return Goal(
            intent="find_vehicles", also=("book_test_drive",), slots={**wish, **booking},
            expect={**called(("search_inventory", wish)), "booking": booking},
        )  # fmt: skip

    def _valued_and_financed(self) -> Goal:
        least = self.data.business.limits["min_down_payment"]
        own = self._own_car()
        while trade_in_value(**own)[0] < least:
            own = self._own_car()
        wish = {"score": self.rng.randint(605, 830), "term": self.rng.choice(TERMS)}
        apr = self._rate(wish["score"], wish["term"])
        low, _ = trade_in_value(**own)
        quote = {"stock": self.vehicle.stock, "apr": apr, "term": wish["term"], "down_payment": low}
        return Goal(
            intent="value_trade_in", also=("finance_quote",), slots={**own, "stock": self.vehicle.stock, **wish},
            expect=called(("estimate_trade_in", own), ("finance_quote", quote)),
        )  # fmt: skip

    def _there_and_described(self) -> Goal:
        slots = {"stock": self._any_car().stock}
        expect = called(("get_vehicle", slots), ("check_availability", slots))
        return Goal(intent="vehicle_details", also=("check_availability",), slots=slots, expect=expect)

    def _described_and_priced(self) -> Goal:
        slots = {"stock": self.vehicle.stock}
        expect = called(("get_vehicle", slots), self._best_quote(self.vehicle))
        return Goal(intent="vehicle_details", also=("price_offer",), slots=slots, expect=expect)

    def _there_and_driven(self) -> Goal:
        person = {"name": self.customer.name, "licence": self.customer.licence}
        booking = {"stock": self.vehicle.stock, **self._free_slot(), **person}
        expect = {**called(("check_availability", {"stock": self.vehicle.stock})), "booking": booking}
        return Goal(intent="check_availability", also=("book_test_drive",), slots=booking, expect=expect)

    def _booked_and_open(self) -> Goal:
        slots = {"reference": self.booking.reference}
        expect = called(("find_booking", slots), ("opening_hours", {"day": self.booking.day}))
        return Goal(intent="check_booking", also=("opening_hours",), slots=slots, expect=expect)

    def _ordered_and_open(self) -> Goal:
        slots = {"order": self.order.number, "name": self.order.name}
        expect = called(("find_order", slots), ("opening_hours", {"day": self.order.day}))
        return Goal(intent="order_status", also=("opening_hours",), slots=slots, expect=expect)

    def _open_and_reached(self) -> Goal:
        day, place = {"day": self.rng.choice(DAYS)}, {"place": self.rng.choice(PLACES)}
        expect = called(("opening_hours", day), ("directions", place))
        return Goal(intent="opening_hours", also=("directions",), slots={**day, **place}, expect=expect)
