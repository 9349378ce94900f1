//! The instructions of a pickle, one after the other.

use super::machine::{Fault, Machine, Value, pairs, wrong};

impl Machine<'_> {
    /// Runs one instruction; `true` after the last.
    pub(super) fn step(&mut self) -> Result<bool, Fault> {
        let code = self.byte()?;
        match code {
            b'.' => return Ok(true),
            0x80 | 0x95 | b'(' | b'0' | b'1' | b'2' | b'q' | b'r' | 0x94 | b'h' | b'j' => {
                self.control(code)?;
            }
            b'N' | 0x88 | 0x89 | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(code)?,
            b'U' | 0x8c | b'T' | b'X' | 0x8d | b'C' | b'B' | 0x8e | 0x96 => self.string(code)?,
            b')'
            | 0x85..=0x87
            | b't'
            | b']'
            | b'l'
            | b'}'
            | b'd'
            | 0x8f
            | 0x91
            | b'a'
            | b'e'
            | 0x90
            | b's'
            | b'u' => self.container(code)?,
            b'c' | 0x93 | b'i' | b'R' | 0x81 | 0x92 | b'b' | b'Q' => self.object(code)?,
            other => {
                let name = match other {
                    b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'P' => " of protocol 0",
                    b'o' => ", which makes an object",
                    0x82..=0x84 => ", which names a class by a number",
                    0x97 | 0x98 => ", which refers to data outside the file",
                    _ => "",
                };
                return wrong(format!(
                    "has the instruction 0x{other:02x}{name} at byte {}, which files of weights do not have",
                    self.at - 1
                ));
            }
        }
        Ok(false)
    }

    /// An instruction for the stack, its marks and what is kept beside it.
    fn control(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            // PROTO and FRAME.
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return wrong(format!(
                        "is of protocol {protocol}; 5 is the last that is known"
                    ));
                }
            }
            0x95 => {
                self.take(8)?;
            }
            b'(' => {
                self.spend(1)?;
                self.marks.push(self.stack.len());
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => drop(self.marks.pop()),
                _ => drop(self.pop()?),
            },
            b'1' => drop(self.above_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'q' => {
                let place = self.byte()?;
                self.put(place.into())?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?);
                self.put(place)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'h' => {
                let place = self.byte()?;
                self.get(place.into())?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?);
                self.get(place)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A number, a truth value, or none.
    fn number(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let length = self.byte()?;
                self.long(length.into())?;
            }
            0x8b => {
                let length = u32::from_le_bytes(self.array()?);
                self.long(length.into())?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Plain)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Text or bytes.
    fn string(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            // Texts, and bytes of old Python, whose texts they are.
            b'U' | 0x8c => {
                let length = self.byte()?;
                self.text(length.into())?;
            }
            b'T' | b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(length.into())?;
            }
            0x8d => {
                let length = u64::from_le_bytes(self.array()?);
                self.text(length)?;
            }
            // Bytes.
            b'C' => {
                let length = self.byte()?;
                self.skip(length.into())?;
            }
            b'B' => {
                let length = u32::from_le_bytes(self.array()?);
                self.skip(length.into())?;
            }
            0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.array()?);
                self.skip(length)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A tuple, a list, a dictionary or a set, or what goes into one.
    fn container(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.top_many(usize::from(code - 0x84))?;
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.above_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.above_mark()?;
                self.push(Value::List(items))?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.above_mark()?;
                let pairs = pairs(&items)?;
                self.push(Value::Dict(pairs))?;
            }
            0x8f => self.push(Value::Plain)?,
            0x91 => {
                self.above_mark()?;
                self.push(Value::Plain)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.top_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set_items(&items)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A class, or what is made of one.
    fn object(&mut self, code: u8) -> Result<(), Fault> {
        match code {
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let names = self.top_many(2)?;
                match names.as_slice() {
                    &[module, name] => {
                        let (module, name) = (self.range(module)?, self.range(name)?);
                        self.global(module, name)?;
                    }
                    _ => return wrong("names a class by something else than two texts"),
                }
            }
            // INST, which names a class and makes one at once.
            b'i' => {
                let module = self.line()?;
                let name = self.line()?;
                self.above_mark()?;
                self.global(module, name)?;
                let class = self.pop()?;
                self.foreign_or_refused(class)?;
            }
            b'R' | 0x81 => {
                let made = self.top_many(2)?;
                self.make(made[0], made[1])?;
            }
            0x92 => {
                let made = self.top_many(3)?;
                self.make(made[0], made[1])?;
            }
            b'b' => self.build()?,
            b'Q' => self.persistent()?,

            _ => {}
        }
        Ok(())
    }
}
